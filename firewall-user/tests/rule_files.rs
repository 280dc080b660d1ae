//! Rule files from the outside: what every mistake looks like (snapshots), which files are refused unread, that any valid
//! rule set survives being written and read, and that the files in `rules/` load without a warning.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use firewall_common::abi::flow::Timeouts;
use firewall_common::abi::image::Selector;
use firewall_common::parse::{Addresses, Fragment, Packet, Transport, Upper};
use firewall_user::rules::model::Rate;
use firewall_user::rules::model::{
    Action, AddressSet, BanAfter, Bans, Defaults, Direction, Essentials, Flows, Limit, Limits, Per,
    Protocol, Rule, RuleSet, SetId, TcpFlags, Terms, Unit, Vlans,
};
use firewall_user::rules::{self, Loaded, Report, Severity, oracle};
use proptest::prelude::*;

const WIDTH: usize = 100;

fn parse(text: &str) -> Result<Loaded, Report> {
    rules::parse("rules.toml", text, Path::new("/nonexistent"))
}

fn good(text: &str) -> Loaded {
    parse(text).unwrap_or_else(|report| panic!("{report}"))
}

/// `body` below the version line, refused; what the user sees.
fn mistake(body: &str) -> String {
    match parse(&format!("version = 1\n{body}")) {
        Ok(_) => panic!("accepted:\n{body}"),
        Err(report) => report.render(false, WIDTH),
    }
}

/// A rule with these lines added, refused.
fn rule_mistake(lines: &str) -> String {
    mistake(&format!(
        "[[rule]]\nname = \"x\"\naction = \"accept\"\n{lines}\n"
    ))
}

/// Rules with these lines each, refused.
fn several_terms(rules: &[&str]) -> String {
    let mut body = String::new();
    for (n, lines) in rules.iter().enumerate() {
        write!(
            body,
            "[[rule]]\nname = \"{n}\"\naction = \"accept\"\n{lines}\n"
        )
        .unwrap();
    }
    mistake(&body)
}

/// Assertions of packets and verdicts, beside a rule for SSH from a group, refused.
fn several_asserts(asserts: &[(&str, &str)]) -> String {
    let mut body = "[groups]\noffice = [\"203.0.113.0/24\"]\n\
         [[rule]]\nname = \"ssh\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [22]\nfrom = [\"office\"]\n"
        .to_owned();
    for (packet, expect) in asserts {
        write!(
            body,
            "[[assert]]\npacket = \"{packet}\"\nexpect = \"{expect}\"\n"
        )
        .unwrap();
    }
    mistake(&body)
}

/// Rules with a limit of these keys each, refused.
fn several_limits(limits: &[&str]) -> String {
    let lines: Vec<String> = limits
        .iter()
        .map(|keys| format!("limit = {{ {keys} }}"))
        .collect();
    several_terms(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The messages of a refusal, for mistakes that need no picture.
fn messages(body: &str) -> Vec<String> {
    let report = parse(&format!("version = 1\n{body}")).expect_err("accepted");
    report
        .errors
        .iter()
        .map(|e| format!("{} ({})", e.message(), e.help_text().unwrap_or_default()))
        .collect()
}

fn rule_messages(lines: &str) -> Vec<String> {
    messages(&format!(
        "[[rule]]\nname = \"x\"\naction = \"accept\"\n{lines}\n"
    ))
}

/// A rule with these lines added, taken.
fn rule(lines: &str) -> Rule {
    good(&format!(
        "version = 1\n[[rule]]\nname = \"x\"\naction = \"accept\"\n{lines}\n"
    ))
    .rule_set
    .rules
    .remove(0)
}

macro_rules! shows {
    ($($name:ident: $mistake:expr;)*) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), $mistake);
        })*
    };
}

// One picture for each class of mistake.
shows! {
    unknown_key: rule_mistake("port = [22]");
    unknown_key_far_from_any: rule_mistake("colour = \"red\"");
    unknown_table: mistake("[[rules]]\nname = \"x\"\n");
    unknown_essential: mistake("[essentials]\nneighbor-discovery = true\n");
    unknown_action: mistake("[[rule]]\nname = \"x\"\naction = \"allow\"\n");
    wrong_types: rule_mistake("log = \"yes\"\nports = 80\nprotocol = 6.0\nfrom = \"office\"\nto = [1]");
    missing_version: parse("[defaults]\ningress = \"drop\"\n").unwrap_err().render(false, WIDTH);
    empty_file: parse("").unwrap_err().render(false, WIDTH);
    other_version: parse("version = 2\n").unwrap_err().render(false, WIDTH);
    rule_without_name_and_action: mistake("[[rule]]\nprotocol = \"tcp\"\n");
    rule_in_single_brackets: mistake("[rule]\nname = \"x\"\naction = \"drop\"\n");
    duplicate_rule_names: mistake("[[rule]]\nname = \"a\"\naction = \"drop\"\n\n[[rule]]\nname = \"a\"\naction = \"drop\"\n");
    host_bits_v4: rule_mistake("from = [\"192.0.2.1/24\"]");
    host_bits_v6: rule_mistake("from = [\"2001:db8::1/32\"]");
    bad_address: rule_mistake("from = [\"192.0.2.256\", \"10.0.0\", \"2001:db8:::1\", \"192.0.2.0/33\"]");
    mapped_address: rule_mistake("from = [\"::ffff:192.0.2.1\"]");
    zone_id: rule_mistake("from = [\"fe80::1%eth0\"]");
    netmask: mistake("[groups]\na = [\"192.0.2.0/255.255.255.0\"]\n");
    address_range: mistake("[groups]\na = [\"192.0.2.0-192.0.2.9\"]\n");
    reversed_ports: rule_mistake("protocol = \"tcp\"\nports = [\"8100-8000\"]");
    port_zero: rule_mistake("protocol = \"tcp\"\nports = [0, \"0-1023\"]");
    unknown_service: rule_mistake("protocol = \"tcp\"\nports = [\"htpp\"]");
    ports_without_protocol: rule_mistake("ports = [80]");
    ports_on_a_protocol_without: rule_mistake("protocol = \"gre\"\nports = [80]");
    unknown_protocol: rule_mistake("protocol = \"tpc\"");
    empty_lists: rule_mistake("protocol = \"tcp\"\nports = []\nfrom = []");
    unknown_group: mistake(
        "[groups]\noffice = [\"203.0.113.0/24\"]\n\
         [[rule]]\nname = \"x\"\naction = \"accept\"\nfrom = [\"ofice\"]\n",
    );
    group_called_like_an_address: mistake("[groups]\n\"192.0.2.1\" = [\"192.0.2.1\"]\n");
    group_cycle: mistake("[groups]\na = [\"b\"]\nb = [\"192.0.2.1\", \"c\"]\nc = [\"a\"]\n");
    group_in_itself: mistake("[groups]\na = [\"a\"]\n");
    group_file_missing: mistake("[groups]\nrefused = { file = \"refused.txt\" }\n");
    icmp_types_without_icmp: rule_mistake("protocol = \"tcp\"\nicmp-types = [8]");
    icmp_type_of_the_other_family: rule_mistake("protocol = \"icmp\"\nicmp-types = [\"packet-too-big\"]");
    tcp_flag_both_set_and_clear: rule_mistake("protocol = \"tcp\"\ntcp-flags = { set = [\"syn\"], clear = [\"syn\"] }");
    tcp_flags_of_nothing: rule_mistake("protocol = \"tcp\"\ntcp-flags = { set = [], clear = [] }");
    tcp_flags_without_tcp: rule_mistake("protocol = \"udp\"\ntcp-flags = { set = [\"syn\"] }");
    unclosed_list: mistake(
        "[[rule]]\nname = \"x\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [80, 443\nfrom = [\"192.0.2.1\"]\n",
    );
    unclosed_heading: mistake("[groups\na = [\"192.0.2.1\"]\n[[rule]\nname = \"x\"\n");
    unquoted_text: rule_mistake("protocol = tcp\nfrom =\nports [80]");
    key_twice: rule_mistake("log = true\nlog = false");
    unknown_top_level_key: mistake("[colours]\n");
    unknown_flows_key: mistake("[flows]\nentries = 4096\n");
    unknown_timeout: mistake("[flows.timeouts]\nudp-steam = \"2m\"\ntcp-time-wait = \"2m\"\n");
    flows_of_wrong_types: mistake(
        "[flows]\nsize = \"64k\"\n[flows.timeouts]\nudp = 1.5\nicmp = [30]\ntcp-established = true\n",
    );
    timeouts_without_table: mistake("[flows]\ntimeouts = \"5m\"\n");
    unknown_vlans_key: mistake("[vlans]\nid = [10]\n");
    vlans_of_wrong_types: mistake("[vlans]\nuntagged = 1\nids = 10\n");
    vlans_that_cannot_be: mistake("[vlans]\nids = [0, 4095, -1, \"10..20\", \"30-20\", \"office\", \"4000-4095\"]\n");
    no_vlan_at_all: mistake("[vlans]\nuntagged = false\n");
    unknown_assert_key: mistake("[[assert]]\npackets = \"tcp to :22\"\nexpect = \"drop\"\n");
    assert_without_packet_and_verdict: mistake("[[assert]]\nmessage = \"x\"\n");
    assert_in_single_brackets: mistake("[assert]\npacket = \"tcp to :22\"\nexpect = \"drop\"\n");
    asserts_of_wrong_types: mistake(
        "[[assert]]\npacket = [\"tcp\"]\nexpect = true\n[[assert]]\npacket = \"udp to :53\"\nexpect = \"allow\"\nmessage = 1\n",
    );
    asserts_of_no_packets: several_asserts(&[
        ("tcp form office to :22", "drop"),
        ("tcp from ofice to :22", "drop"),
        ("tcp from office:1024 to :22", "drop"),
        ("tcp to :22 vlan 10", "drop"),
        ("tcp from 192.0.2.1 to 2001:db8::1", "drop"),
        ("icmp to 2001:db8::1", "drop"),
        ("tcp to :22 syn,fin", "drop"),
    ]);
    asserts_that_do_not_hold: several_asserts(&[
        ("tcp to :22", "drop"),
        ("tcp to :22", "accept"),
        ("udp from office to :53 out", "drop"),
        ("any from 192.0.2.0/24", "drop"),
    ]);
    assert_with_a_message: mistake(
        "[[assert]]\npacket = \"tcp to :3306\"\nexpect = \"accept\"\nmessage = \"the database is for everybody\"\n",
    );
    flow_table_sizes: mistake("[flows]\nsize = 1000\n");
    timeouts_out_of_bounds: mistake(
        "[flows.timeouts]\nudp = 0\nudp-stream = \"0s\"\nicmp = -30\ntcp-established = \"366d\"\n\
         other = 99999999999999999999\n",
    );
    timeouts_not_understood: mistake(
        "[flows.timeouts]\nudp = \"30 sec\"\nudp-stream = \"2w\"\nother = \"1.5h\"\nicmp = \"soon\"\n",
    );
    rate_without_time: rule_mistake("limit = { rate = 200 }");
    rates_not_understood: several_limits(&[
        "rate = \"200/sec\"", "rate = \"200 per minute\"", "rate = \"200\"", "rate = \"fast\"", "rate = \"10M/s\"",
        "rate = \"10MB/s\", unit = \"bytes\"", "rate = \"10Mbit/s\", unit = \"bytes\"",
        "rate = \"ten/s\", unit = \"bytes\"",
    ]);
    rates_out_of_bounds: several_limits(&[
        "rate = \"0/s\"", "rate = \"100000000001/s\"", "rate = \"101G/s\", unit = \"bytes\"",
        "rate = \"59/m\", unit = \"bytes\"",
    ]);
    bursts_not_understood: several_limits(&[
        "rate = \"1/s\", burst = \"400/s\"", "rate = \"1/s\", burst = \"many\"", "rate = \"1/s\", burst = \"1M\"",
        "rate = \"1k/s\", burst = \"1MB\", unit = \"bytes\"", "rate = \"1k/s\", burst = \"much\", unit = \"bytes\"",
    ]);
    bursts_out_of_bounds: several_limits(&[
        "rate = \"1/s\", burst = 0", "rate = \"1/s\", burst = -1", "rate = \"99999/s\", burst = 4294967296",
        "rate = \"1G/s\", burst = \"1025GiB\", unit = \"bytes\"", "rate = \"1k/s\", burst = 1500, unit = \"bytes\"",
        "rate = \"1/d\", burst = 4000",
    ]);
    limit_without_rate: several_terms(&["limit = { burst = 400 }", "[rule.limit]\nburst = 400"]);
    limit_without_table: several_terms(&["limit = \"200/s\"", "limit = 200", "limit = \"low\""]);
    limit_of_wrong_types: rule_mistake("limit = { rate = 2.5, burst = true, per = 1, unit = [] }");
    unknown_limit_key: rule_mistake("limit = { rates = \"200/s\", period = \"10s\" }");
    unknown_limit_words: rule_mistake("limit = { rate = \"200/s\", per = \"sources\", unit = \"frames\" }");
    limit_on_a_rule_that_drops: mistake(
        "[[rule]]\nname = \"x\"\naction = \"drop\"\nlimit = { rate = \"200/s\" }\n",
    );
    connections_of_no_protocol: rule_mistake("limit = { rate = \"200/s\", unit = \"connections\" }");
    ban_without_its_keys: rule_mistake("limit = { rate = \"1/s\" }\nban = {}");
    ban_of_wrong_types: rule_mistake(
        "limit = { rate = \"1/s\" }\nban = { after = \"20\", within = 1.5, for = true, until = 1979-05-27 }",
    );
    bans_out_of_bounds: several_terms(&[
        "limit = { rate = \"1/s\" }\nban = { after = 0, within = 0, for = \"0s\" }",
        "limit = { rate = \"1/s\" }\nban = { after = 4001, within = \"25h\", for = \"366d\" }",
        "limit = { rate = \"1/s\" }\nban = { after = 4000, within = \"10 sec\", for = \"ever\" }",
    ]);
    ban_without_table: rule_mistake("limit = { rate = \"1/s\" }\nban = \"10m\"");
    ban_where_nothing_is_dropped: rule_mistake("ban = { after = 20, within = \"10s\", for = \"10m\" }");
    ban_of_what_leaves: mistake(
        "[[rule]]\nname = \"x\"\naction = \"drop\"\ndirection = \"egress\"\n\
         ban = { after = 20, within = \"10s\", for = \"10m\" }\n",
    );
    syn_cookies_not_understood: several_terms(&[
        "protocol = \"tcp\"\nsyn-cookies = { above = 5000 }", "protocol = \"tcp\"\nsyn-cookies = { above = \"5k/s\" }",
        "protocol = \"tcp\"\nsyn-cookies = { over = \"5000/s\" }", "protocol = \"tcp\"\nsyn-cookies = \"5000/s\"",
        "protocol = \"tcp\"\nsyn-cookies = true",
    ]);
    syn_cookies_where_there_are_no_syns: mistake(
        "[[rule]]\nname = \"x\"\naction = \"drop\"\ndirection = \"egress\"\nprotocol = \"udp\"\n\
         syn-cookies = { above = \"5000/s\" }\n",
    );
    limits_out_of_bounds: mistake("[limits]\nsize = 1000\nprefix-v4 = 33\nprefix-v6 = 0\n");
    limits_of_wrong_types: mistake("[limits]\nsize = \"64k\"\nprefix-v4 = \"/24\"\nprefix-v6 = 64.0\nprefix = 24\n");
    bans_table_out_of_bounds: mistake("[bans]\nsize = 5000000\nnever-ban = [\"192.0.2.1/24\", \"ofice\"]\n[groups]\noffice = []\n");
    bans_table_of_wrong_types: mistake("[bans]\nsize = true\nnever-ban = \"192.0.2.1\"\nneverban = []\n");
}

/// Every mistake of a file is told at once, whatever its kind, in the order of the file.
#[test]
fn assertions_that_hold_are_counted() {
    let loaded = good(
        "version = 1\n[defaults]\ningress = \"accept\"\n[[rule]]\nname = \"x\"\naction = \"drop\"\nprotocol = \"udp\"\n\
         ports = [53]\n[[assert]]\npacket = \"udp to :53\"\nexpect = \"drop\"\n[[assert]]\npacket = \"udp to :54\"\n\
         expect = \"accept\"\n",
    );
    assert_eq!(loaded.asserts, 2);
}

#[test]
fn assertions_say_nothing_of_rules_that_are_wrong() {
    let wrong = "[[rule]]\nname = \"x\"\naction = \"acept\"\n[[assert]]\npacket = \"tcp to :22\"\nexpect = \"accept\"\n";
    let said = messages(wrong);
    assert!(said.len() == 1 && said[0].contains("action"), "{said:?}");
}

#[test]
fn several_errors_at_once() {
    let text = r#"version = 1
[defaults]
ingress = "deny"

[groups]
office = ["203.0.113.1/24", "partners"]
partners = ["office"]

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [443, "90-80", "htttp"]
from = ["ofice", "192.0.2.1/24"]

[[rule]]
name = "web"
action = "accept"
comment = unquoted
prots = [22]
"#;
    let report = parse(text).unwrap_err();
    let lines: Vec<usize> = report
        .errors
        .iter()
        .map(|e| e.place().unwrap().line())
        .collect();
    assert_eq!(lines, [3, 6, 7, 13, 13, 14, 17, 19, 20], "{report}");
    insta::assert_snapshot!("several_errors_at_once", report.render(false, WIDTH));
}

#[test]
fn json_form() {
    let report = parse(
        "version = 1\n[[rule]]\nname = \"ä\"\naction = \"accept\"\nfrom = [ \"ü\", \"192.0.2.1/24\"]\n",
    );
    let json = serde_json::to_value(report.unwrap_err()).unwrap();
    assert_eq!(json[1]["line"], 5);
    assert_eq!(json[1]["column"], 15, "columns count characters");
    insta::assert_json_snapshot!("json_form", json);
    let whole_file = rules::load(Path::new("/nonexistent/rules.toml")).unwrap_err();
    let json = serde_json::to_value(whole_file).unwrap();
    assert_eq!(json[0]["file"], "/nonexistent/rules.toml");
    assert!(json[0]["line"].is_null());
}

#[test]
fn colours_only_when_asked() {
    let report = parse("version = 3").unwrap_err();
    assert!(!report.render(false, WIDTH).contains('\x1b'));
    assert!(report.render(true, WIDTH).contains("\x1b["));
    assert_eq!(report.errors[0].severity(), Severity::Error);
}

#[test]
fn errors_beyond_the_limit_are_counted() {
    let mut body = String::new();
    for n in 0..250 {
        writeln!(body, "key{n} = 1").unwrap();
    }
    let report = parse(&format!("version = 1\n{body}")).unwrap_err();
    assert_eq!(report.errors.len(), rules::diagnostic::MAX_REPORTED + 1);
    assert_eq!(
        report.errors.last().unwrap().message(),
        "there are 150 more errors, not shown"
    );
}

/// Text of a file that is shown must not command the terminal.
#[test]
fn control_characters_are_not_printed() {
    let text =
        "version = 1\n[[rule]]\nname = \"a\\u001b[31m\"\naction = \"\u{202e}x\"\nx = \x1b[2J\n";
    let shown = parse(text).unwrap_err().render(false, WIDTH);
    assert!(!shown.contains(['\x1b', '\u{202e}']), "{shown:?}");
}

#[test]
fn ports_become_disjoint_ranges() {
    let rule = rule(
        "protocol = \"tcp\"\nports = [443, 80, \"81-90\", \"85-100\", \"ssh\", 443, \"65535\", \"102-103\"]",
    );
    assert_eq!(
        rule.ports.unwrap(),
        [(22, 22), (80, 100), (102, 103), (443, 443), (65535, 65535)]
    );
}

#[test]
fn port_mistakes() {
    for (ports, wanted) in [
        ("-1", "this is not a port (ports go from 1 to 65535)"),
        ("65536", "this is not a port (ports go from 1 to 65535)"),
        (
            "99999999999999999999",
            "this is not a port (ports go from 1 to 65535)",
        ),
        (
            "\"80:90\"",
            "`80:90` is not how a range is written (write \"80-90\")",
        ),
        (
            "\"80 - 90\"",
            "`80 - 90` is not how a range is written (write \"80-90\")",
        ),
        (
            "\"1-70000\"",
            "this is not a port (ports go from 1 to 65535)",
        ),
        (
            "\"postgres\"",
            "there is no service called `postgres` (did you mean \"postgresql\"?)",
        ),
    ] {
        assert_eq!(
            rule_messages(&format!("protocol = \"udp\"\nports = [{ports}]")),
            [wanted]
        );
    }
    for protocol in ["udp", "sctp", "17", "132"] {
        assert_eq!(
            rule(&format!("protocol = \"{protocol}\"\nports = [1]")).ports,
            Some(vec![(1, 1)])
        );
    }
}

#[test]
fn flows_are_followed_as_the_file_says() {
    assert_eq!(good("version = 1\n").rule_set.flows, Flows::default());
    assert_eq!(Flows::default().size, 65_536);
    let flows = good(
        "version = 1\n[flows]\nsize = 524288\n[flows.timeouts]\ntcp-syn-sent = \"90s\"\ntcp-established = \"2h\"\n\
         tcp-closing = \"5m\"\ntcp-closed = 10\nudp = \"45\"\nudp-stream = \"180s\"\nicmp = \"1m\"\nother = \"1d\"\n",
    )
    .rule_set
    .flows;
    let timeouts = Timeouts {
        tcp_syn_sent: 90,
        tcp_established: 7200,
        tcp_closing: 300,
        tcp_closed: 10,
        udp: 45,
        udp_stream: 180,
        icmp: 60,
        other: 86_400,
    };
    let size = 524_288;
    assert_eq!(flows, Flows { size, timeouts });
    let one = good("version = 1\n[flows]\ntimeouts = { udp = 31 }\n")
        .rule_set
        .flows;
    let timeouts = Timeouts {
        udp: 31,
        ..Timeouts::default()
    };
    assert_eq!(one.timeouts, timeouts);
}

/// The limit of a rule for TCP with these keys.
fn limit(keys: &str) -> Limit {
    let terms = rule(&format!("protocol = \"tcp\"\nlimit = {{ {keys} }}")).terms;
    assert_eq!((terms.ban, terms.syn_cookies), (None, None));
    terms.limit.unwrap()
}

#[test]
fn a_limit_says_how_much_comes_in() {
    assert!(rule("").terms.is_empty());
    let rate = |amount, per_s| Rate { amount, per_s };
    assert_eq!(
        limit("rate = \"200/s\""),
        Limit {
            rate: rate(200, 1),
            burst: 200,
            per: Per::Rule,
            unit: Unit::Packets
        }
    );
    assert_eq!(
        limit("rate = \"10M/m\", burst = \"1MiB\", per = \"source-prefix\", unit = \"bytes\""),
        Limit {
            rate: rate(10_000_000, 60),
            burst: 1 << 20,
            per: Per::SourcePrefix,
            unit: Unit::Bytes
        }
    );
    assert_eq!(
        limit("rate = \"5/h\", burst = \"20\", per = \"source\", unit = \"connections\""),
        Limit {
            rate: rate(5, 3600),
            burst: 20,
            per: Per::Source,
            unit: Unit::Connections
        }
    );
    // What comes in one second, but one packet at least.
    for (keys, burst) in [
        ("rate = \"90/m\"", 2),
        ("rate = \"1/d\"", 1),
        ("rate = \"1M/s\", unit = \"bytes\"", 1_000_000),
        ("rate = \"1k/s\", unit = \"bytes\"", 65_558),
        ("rate = \"100000000000/s\"", u64::from(u32::MAX)),
    ] {
        assert_eq!(limit(keys).burst, burst, "{keys}");
    }
    let table = rule("[rule.limit]\nrate = \"30/s\"\nper = \"source\"").terms;
    assert_eq!(table.limit.unwrap().per, Per::Source);
    // What leaves can be limited too.
    let leaving = rule("direction = \"egress\"\nlimit = { rate = \"1/s\", per = \"source\" }");
    assert!(leaving.terms.limit.is_some());
}

#[test]
fn connections_are_of_tcp_and_udp() {
    let keys = "limit = { rate = \"20/s\", unit = \"connections\" }";
    for protocol in ["\"tcp\"", "\"udp\"", "6", "17"] {
        let terms = rule(&format!("protocol = {protocol}\n{keys}")).terms;
        assert_eq!(terms.limit.unwrap().unit, Unit::Connections);
    }
    for protocol in ["\"any\"", "\"icmp\"", "\"sctp\""] {
        assert_eq!(
            rule_messages(&format!("protocol = {protocol}\n{keys}")),
            [
                "only connections of TCP and UDP can be counted (write protocol = \"tcp\" or \"udp\", or count packets)"
            ]
        );
    }
    // A protocol that does not exist is no second mistake.
    assert_eq!(
        rule_messages(&format!("protocol = \"tpc\"\n{keys}")).len(),
        1
    );
}

#[test]
fn a_ban_says_who_is_kept_out() {
    let bans = |lines: &str| {
        let text = format!(
            "version = 1\n[bans]\nnever-ban = [\"192.0.2.1\"]\n[[rule]]\nname = \"x\"\n{lines}\n"
        );
        let loaded = good(&text);
        assert!(loaded.warnings.is_empty());
        loaded.rule_set.rules[0].terms
    };
    let dropped = bans("action = \"drop\"\nban = { after = 20, within = \"10s\", for = \"10m\" }");
    let wanted = BanAfter {
        after: 20,
        within_s: 10,
        for_s: 600,
    };
    assert_eq!((dropped.ban, dropped.limit), (Some(wanted), None));
    let limited = bans(
        "action = \"accept\"\nlimit = { rate = \"1/s\" }\nban = { after = 4000, within = 86400, for = \"365d\" }",
    );
    let wanted = BanAfter {
        after: 4000,
        within_s: 86_400,
        for_s: 31_536_000,
    };
    assert_eq!(limited.ban, Some(wanted));
    assert!(limited.limit.is_some());
}

/// A limit with a mistake in it is a limit all the same, and is all that is told.
#[test]
fn a_mistake_in_a_term_makes_no_second_one() {
    let ban = "ban = { after = 20, within = \"10s\", for = \"10m\" }";
    for limit in [
        "limit = {}",
        "limit = { rate = 200 }",
        "limit = \"200/s\"",
        "limit = { rate = \"200/s\", unit = \"kB\" }",
        "limit = { rate = \"200k/s\", burst = 1000, unit = \"kB\" }",
        "limit = { rate = \"2d\", burst = 4000 }",
    ] {
        let found = rule_messages(&format!("{limit}\n{ban}"));
        assert_eq!(found.len(), 1, "{found:?}");
    }
    let no_action = messages(&format!(
        "[[rule]]\nname = \"x\"\naction = \"dorp\"\nlimit = {{ rate = \"1/s\" }}\n{ban}\n"
    ));
    assert_eq!(no_action.len(), 1, "{no_action:?}");
}

#[test]
fn syn_cookies_begin_above_a_rate() {
    let terms = rule("protocol = \"tcp\"\nsyn-cookies = { above = \"5000/s\" }").terms;
    let above = Rate {
        amount: 5000,
        per_s: 1,
    };
    let wanted = Terms {
        syn_cookies: Some(above),
        ..Terms::default()
    };
    assert_eq!(terms, wanted);
    for (lines, wanted) in [
        ("direction = \"egress\"\nprotocol = \"tcp\"", 1),
        ("protocol = \"udp\"", 1),
        ("", 1),
        ("direction = \"egress\"", 2),
    ] {
        let found = rule_messages(&format!("{lines}\nsyn-cookies = {{ above = \"5000/s\" }}"));
        assert_eq!(found.len(), wanted, "{found:?}");
    }
}

#[test]
fn limits_and_bans_are_remembered_as_the_file_says() {
    let defaults = good("version = 1\n[limits]\n[bans]\n").rule_set;
    assert_eq!(defaults.limits, Limits::default());
    assert_eq!(defaults.bans, Bans::default());
    let set = good(
        r#"version = 1
[limits]
size = 1024
prefix-v4 = 32
prefix-v6 = 48
[bans]
size = 4194304
never-ban = ["office", "203.0.113.7", "2001:db8::/32"]
[groups]
office = ["192.0.2.0/24"]
[[rule]]
name = "x"
action = "accept"
from = ["198.51.100.1"]
"#,
    )
    .rule_set;
    let limits = Limits {
        size: 1024,
        prefix_v4: 32,
        prefix_v6: 48,
    };
    assert_eq!(set.limits, limits);
    let db8 = 0x2001_0db8 << 96;
    let never = AddressSet {
        v4: vec![(0xc000_0200, 0xc000_02ff), (0xcb00_7107, 0xcb00_7107)],
        v6: vec![(db8, db8 | u128::MAX >> 32)],
    };
    let size = 4_194_304;
    assert_eq!(set.bans, Bans { size, never });
    // Only what rules name is a set of its own.
    let named = AddressSet {
        v4: vec![(0xc633_6401, 0xc633_6401)],
        v6: vec![],
    };
    assert_eq!(set.sets, [named]);
}

/// Sources can be forged, so a file with bans should say who is never banned. It is told once.
#[test]
fn bans_that_spare_nobody() {
    let warn = |tables: &str| {
        let ban = "ban = { after = 20, within = \"10s\", for = \"10m\" }";
        good(&format!(
            "version = 1\n{tables}[[rule]]\nname = \"web\"\naction = \"accept\"\n[[rule]]\nname = \"x\"\n\
             action = \"drop\"\n{ban}\n[[rule]]\nname = \"y\"\naction = \"drop\"\nprotocol = \"udp\"\n{ban}\n"
        ))
        .warnings
    };
    for tables in [
        "",
        "[bans]\nsize = 4096\n",
        "[bans]\nnever-ban = []\n",
        "[bans]\nnever-ban = [\"none\"]\n[groups]\nnone = []\n",
    ] {
        assert_eq!(warn(tables).len(), 1, "{tables}");
    }
    for never in ["192.0.2.1", "2001:db8::/32"] {
        let spared = warn(&format!("[bans]\nnever-ban = [\"{never}\"]\n"));
        assert!(spared.is_empty());
    }
    insta::assert_snapshot!("bans_that_spare_nobody", warn("")[0].render(false, WIDTH));
    // Whom a list with mistakes spares is not known.
    for never in ["\"192.0.2.1\"", "[\"192.0.2.1/24\"]"] {
        let report = parse(&format!(
            "version = 1\n[bans]\nnever-ban = {never}\n[[rule]]\nname = \"x\"\naction = \"drop\"\n\
             ban = {{ after = 20, within = \"10s\", for = \"10m\" }}\n"
        ))
        .unwrap_err();
        assert_eq!((report.errors.len(), report.warnings.len()), (1, 0));
    }
}

/// Four buckets of rules have room in a line, and a fifth would let nothing in.
#[test]
fn more_limits_than_the_table_of_sources_has_room_for() {
    let limits = |size| Limits {
        size,
        ..Limits::default()
    };
    // One choice of five from five, 21 from seven.
    for (shared, choices) in [(0, 0.0), (4, 0.0), (5, 1.0), (7, 21.0), (40, 658_008.0)] {
        let expected = limits(1024).overfull(shared) * 512_f64.powi(4);
        assert!((expected - choices).abs() < 1e-3, "{shared}: {expected}");
    }
    assert!(limits(65_536).overfull(600) < Limits::MAX_OVERFULL);
    assert_eq!(limits(65_536).size_for(1_000), Some(131_072));
    assert_eq!(limits(1024).size_for(1_000), Some(131_072));
    assert_eq!(limits(65_536).size_for(65_000), None);

    let warn = |tables: &str, terms: &str, rules: usize| {
        let rule = |number| {
            format!(
                "[[rule]]\nname = \"{number}\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [{number}]\n{terms}\n"
            )
        };
        let rules: String = (1..=rules).map(rule).collect();
        good(&format!("version = 1\n{tables}{rules}")).warnings
    };
    let small = "[limits]\nsize = 1024\n";
    let limited = "limit = { rate = \"1/s\" }";
    let twice = "limit = { rate = \"1/s\", per = \"source\" }\nsyn-cookies = { above = \"9/s\" }";
    assert!(warn(small, "", 100).is_empty());
    assert!(warn(small, limited, 20).is_empty());
    assert!(warn("", limited, 600).is_empty());
    assert_eq!(warn("", limited, 1_000).len(), 1);
    for (terms, rules) in [(limited, 40), (twice, 20)] {
        let warnings = warn(small, terms, rules);
        assert_eq!(warnings.len(), 1, "{terms}");
        insta::assert_snapshot!("more_limits_than_room", warnings[0].render(false, WIDTH));
    }
    assert!(warn("[limits]\nsize = 2048\n", limited, 40).is_empty());
}

/// The table has room for twice as many flows as the file asks for.
#[test]
fn flow_tables_are_twice_as_large() {
    for (size, buckets) in [
        (1024, 256),
        (1025, 512),
        (65_536, 16_384),
        (524_288, 131_072),
        (600_000, 262_144),
        (8_388_608, 2_097_152),
    ] {
        let flows = Flows {
            size,
            ..Flows::default()
        };
        assert_eq!(flows.buckets(), buckets, "{size}");
    }
}

#[test]
fn protocols_by_name_and_number() {
    for (text, wanted) in [
        ("\"tcp\"", Protocol::Number(6)),
        ("\"vrrp\"", Protocol::Number(112)),
        ("0", Protocol::Number(0)),
        ("\"255\"", Protocol::Number(255)),
        ("\"any\"", Protocol::Any),
    ] {
        assert_eq!(rule(&format!("protocol = {text}")).protocol, wanted);
    }
    assert_eq!(rule("").protocol, Protocol::Any);
    for text in ["256", "-1", "\"256\"", "\"TCP\"", "\"\""] {
        assert_eq!(
            rule_messages(&format!("protocol = {text}")).len(),
            1,
            "{text}"
        );
    }
    assert!(rule_messages("protocol = \"TCP\"")[0].ends_with("(did you mean \"tcp\"?)"));
}

#[test]
fn icmp_types_by_family() {
    let types = |protocol: &str| {
        rule(&format!(
            "protocol = \"{protocol}\"\nicmp-types = [\"echo-request\", 13, 13, \"2\"]"
        ))
    };
    assert_eq!(types("icmp").icmp_types.unwrap(), [2, 8, 13]);
    assert_eq!(types("icmpv6").icmp_types.unwrap(), [2, 13, 128]);
    assert_eq!(
        rule_messages("protocol = \"icmp\"\nicmp-types = [256]").len(),
        1
    );
    assert_eq!(
        rule_messages("protocol = \"icmp\"\nicmp-types = []").len(),
        1
    );
    assert!(
        rule_messages("protocol = \"icmp\"\nicmp-types = [\"ping\"]")[0].contains("echo-request")
    );
}

#[test]
fn tcp_flags_become_bits() {
    let flags = rule(
        "protocol = \"tcp\"\ntcp-flags = { set = [\"syn\", \"ece\"], clear = [\"ack\", \"fin\"] }",
    )
    .tcp_flags;
    assert_eq!(
        flags,
        Some(TcpFlags {
            set: 0x42,
            clear: 0x11
        })
    );
    let flags = rule("protocol = 6\ntcp-flags = { clear = [\"cwr\"] }").tcp_flags;
    assert_eq!(
        flags,
        Some(TcpFlags {
            set: 0,
            clear: 0x80
        })
    );
    assert!(
        rule_messages("protocol = \"tcp\"\ntcp-flags = { set = [\"sync\"] }")[0]
            .contains("\"syn\"")
    );
    assert_eq!(
        rule_messages("protocol = \"tcp\"\ntcp-flags = { sets = [\"syn\"] }").len(),
        1
    );
}

#[test]
fn name_and_comment_limits() {
    let named = |name: &str| messages(&format!("[[rule]]\nname = \"{name}\"\naction = \"drop\"\n"));
    assert!(named("")[0].contains("cannot be empty"));
    assert!(named(&"x".repeat(129))[0].contains("129 bytes"));
    assert!(named("a\\nb")[0].contains("control characters"));
    good(&format!(
        "version = 1\n[[rule]]\nname = \"{}\"\naction = \"drop\"\n",
        "x".repeat(128)
    ));
    good(
        "version = 1\n[[rule]]\nname = \"büro, 2. Stock\"\naction = \"drop\"\ncomment = \"\"\"two\nlines\"\"\"\n",
    );
    assert!(rule_messages("comment = \"\\u0007\"")[0].contains("control characters"));
    assert!(messages(&format!("[groups]\n{} = []\n", "x".repeat(129)))[0].contains("129 bytes"));
}

#[test]
fn too_many_rules() {
    let rules = |count: usize| {
        let mut text = "version = 1\n".to_owned();
        for n in 0..count {
            write!(text, "[[rule]]\nname = \"r{n}\"\naction = \"drop\"\n").unwrap();
        }
        text
    };
    let most = rules::validate::MAX_RULES;
    let loaded = good(&rules(most));
    assert_eq!(loaded.rule_set.rules.len(), most);
    assert_eq!(loaded.rule_set.rules[most - 1].line, 2 + 3 * (most - 1));
    let report = parse(&rules(most + 1)).unwrap_err();
    assert_eq!(report.errors.len(), 1);
    assert!(
        report.errors[0]
            .message()
            .contains("65001 rules, more than the 65000")
    );
}

#[test]
fn groups_in_any_order_and_equal_sets_once() {
    let set = good(
        r#"version = 1
[groups]
all = ["office", "lab", "2001:db8::/32"]
lab = ["192.0.2.128/25"]
office = ["192.0.2.0/25"]
none = []

[[rule]]
name = "a"
action = "accept"
from = ["lab", "office"]
to = ["192.0.2.0/24"]

[[rule]]
name = "b"
action = "accept"
from = ["all"]
to = ["0.0.0.0/0", "::/0"]

[[rule]]
name = "c"
action = "accept"
from = ["office", "lab", "office"]
"#,
    )
    .rule_set;
    let net = (0xc000_0200, 0xc000_02ff);
    let db8 = 0x2001_0db8 << 96;
    assert_eq!(set.sets.len(), 3);
    assert_eq!(
        set.sets[0],
        AddressSet {
            v4: vec![net],
            v6: vec![]
        }
    );
    assert_eq!(
        set.groups["all"],
        AddressSet {
            v4: vec![net],
            v6: vec![(db8, db8 | u128::MAX >> 32)]
        }
    );
    assert_eq!(set.groups["none"], AddressSet::default());
    assert_eq!(
        set.sets[2],
        AddressSet {
            v4: vec![(0, u32::MAX)],
            v6: vec![(0, u128::MAX)]
        }
    );
    let (a, b, c) = (&set.rules[0], &set.rules[1], &set.rules[2]);
    assert_eq!((a.from, a.to), (Some(SetId(0)), Some(SetId(0))));
    assert_eq!((b.from, b.to), (Some(SetId(1)), Some(SetId(2))));
    assert_eq!((c.from, c.to), (Some(SetId(0)), None));
    assert_eq!((a.line, b.line, c.line), (8, 14, 20));
}

/// Each of these warns once; its near miss does not.
#[test]
fn rules_that_can_never_match() {
    let warn = |lines: &str| {
        let text = format!(
            "version = 1\n[groups]\nnone = []\n[[rule]]\nname = \"x\"\naction = \"accept\"\n{lines}\n"
        );
        good(&text).warnings
    };
    for (lines, near_miss) in [
        (
            "protocol = \"icmp\"\nfrom = [\"2001:db8::1\"]",
            "protocol = \"icmpv6\"\nfrom = [\"2001:db8::1\"]",
        ),
        (
            "protocol = \"icmpv6\"\nto = [\"192.0.2.1\"]",
            "protocol = \"icmpv6\"\nto = [\"192.0.2.1\", \"2001:db8::1\"]",
        ),
        (
            "from = [\"2001:db8::1\"]\nto = [\"192.0.2.1\"]",
            "from = [\"2001:db8::1\"]\nto = [\"::/0\", \"192.0.2.1\"]",
        ),
        ("from = [\"none\"]", "from = [\"none\", \"192.0.2.1\"]"),
        ("to = [\"none\"]", ""),
    ] {
        let warnings = warn(lines);
        assert_eq!(warnings.len(), 1, "{lines}");
        assert_eq!(warnings[0].severity(), Severity::Warning);
        assert_eq!(warnings[0].place().unwrap().line(), 5);
        assert!(
            warnings[0]
                .message()
                .starts_with("rule `x` can never match")
        );
        assert!(warn(near_miss).is_empty(), "{near_miss}");
    }
    insta::assert_snapshot!(
        "never_matches",
        warn("protocol = \"icmp\"\nfrom = [\"2001:db8::1\"]")[0].render(false, WIDTH)
    );
}

/// What another part of the program finds can point at rules.
#[test]
fn warnings_that_point_at_rules() {
    let loaded = good(
        "version = 1\n[[rule]]\nname = \"all\"\naction = \"drop\"\n\n[[rule]]\nname = \"web\"\naction = \"accept\"\n",
    );
    let warning = loaded.rule_warning(
        1,
        "rule `web` can never match: earlier rules cover it",
        "never reached",
    );
    let warning = loaded
        .also_at_rule(warning, 0, "covers it")
        .help("move it up, or take it out");
    insta::assert_snapshot!("points_at_rules", warning.render(false, WIDTH));
}

#[test]
fn syntax_errors_do_not_hide_others_nor_invent_any() {
    let report = parse(
        "version =\n[[rule]]\nname = \"x\"\naction = \"accept\"\nfrom = [\"192.0.2.1/24\"]\n",
    )
    .unwrap_err();
    let lines: Vec<usize> = report
        .errors
        .iter()
        .map(|e| e.place().unwrap().line())
        .collect();
    assert_eq!(lines, [1, 5], "{report}");
    let report = parse(
        "version = 1\n[groups]\na = [\"192.0.2.1\"\nb = [\"192.0.2.2\"]\n[[rule]]\nname = \"x\"\n",
    );
    assert_eq!(report.unwrap_err().errors.len(), 1);
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn load_message(path: &Path) -> String {
    let report = rules::load(path).expect_err("loaded");
    assert_eq!(report.errors.len(), 1, "{report}");
    assert_eq!(report.errors[0].file(), path.to_string_lossy());
    report.errors[0].message().to_owned()
}

#[test]
fn files_that_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(load_message(dir), "this is a directory, not a rule file");
    assert_eq!(
        load_message(Path::new("/dev/zero")),
        "this is a device, not a rule file"
    );
    assert_eq!(
        load_message(&dir.join("none.toml")),
        "this cannot be read: no such file or directory"
    );
    assert_eq!(
        load_message(&write(dir, "binary", b"\x7fELF\0\0")),
        "this is a binary file, not a rule file"
    );
    assert_eq!(
        load_message(&write(dir, "latin1", b"version = 1 # B\xfcro\n")),
        "the file is not UTF-8 text"
    );
    let large = write(dir, "large.toml", "");
    std::fs::File::options()
        .write(true)
        .open(&large)
        .unwrap()
        .set_len(100 << 30)
        .unwrap();
    assert_eq!(
        load_message(&large),
        "this is larger than 16 MiB, the most that a rule file may have"
    );
    let pipe = dir.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert_eq!(load_message(&pipe), "this is a pipe, not a rule file");
    let link = dir.join("link.toml");
    std::os::unix::fs::symlink(write(dir, "real.toml", "version = 1\n"), &link).unwrap();
    rules::load(&link).unwrap();
    let circle = dir.join("circle");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    assert!(
        load_message(&circle).starts_with("this cannot be read: too many levels of symbolic links")
    );
    assert!(parse(&" ".repeat((16 << 20) + 1)).is_err());
    parse(&format!("version = 1\n{}", " ".repeat(16 << 20 >> 1))).unwrap();
}

#[test]
fn address_lists() {
    let dir = tempfile::tempdir().unwrap();
    let main = |list: &str| {
        let text = format!(
            "version = 1\n[groups]\nrefused = {{ file = \"{list}\" }}\n[[rule]]\nname = \"x\"\naction = \"drop\"\n\
             from = [\"refused\"]\n"
        );
        rules::load(&write(dir.path(), "main.toml", text))
    };
    write(
        dir.path(),
        "good.txt",
        "\u{feff}# refused since May\r\n192.0.2.1\r\n\r\n  192.0.2.2 # the neighbour\n\t198.51.100.0/24\t\n2001:db8::/32\n0.0.0.0/32",
    );
    let set = main("good.txt").unwrap().rule_set;
    let db8 = 0x2001_0db8_u128 << 96;
    let wanted = AddressSet {
        v4: vec![
            (0, 0),
            (0xc000_0201, 0xc000_0202),
            (0xc633_6400, 0xc633_64ff),
        ],
        v6: vec![(db8, db8 | u128::MAX >> 32)],
    };
    assert_eq!((&set.sets[0], &set.groups["refused"]), (&wanted, &wanted));

    write(
        dir.path(),
        "bad.txt",
        "192.0.2.1\n192.0.2.1/24\noffice\n192.0.2.9 192.0.2.10\n",
    );
    let report = main("bad.txt").unwrap_err();
    let shown = report
        .render(false, 200)
        .replace(&*dir.path().to_string_lossy(), "DIR");
    insta::assert_snapshot!("address_list_errors", shown);
    assert!(report.warnings.is_empty());

    write(dir.path(), "many.txt", "nonsense\n".repeat(1000));
    let errors = main("many.txt").unwrap_err().errors;
    assert_eq!(errors.len(), rules::MAX_LIST_ERRORS + 1);
    assert!(
        errors
            .iter()
            .any(|e| e.message() == "980 more lines of this list are no addresses")
    );

    write(dir.path(), "empty.txt", "");
    assert_eq!(main("empty.txt").unwrap().warnings.len(), 1);
    for (name, message) in [
        (".", "is a directory"),
        ("/dev/zero", "is a device"),
        ("none.txt", "cannot be read"),
    ] {
        let report = main(name).unwrap_err();
        assert!(report.errors[0].message().contains(message), "{report}");
        assert_eq!(report.errors[0].place().unwrap().line(), 3);
    }
    let large = write(dir.path(), "large.txt", "");
    std::fs::File::options()
        .write(true)
        .open(&large)
        .unwrap()
        .set_len((100 << 20) + 1)
        .unwrap();
    assert!(
        main("large.txt").unwrap_err().errors[0]
            .message()
            .contains("larger than 100 MiB")
    );
}

/// A list of a million scattered CIDRs comes out whole. `--nocapture` in a release build shows how long it takes.
#[test]
fn a_million_line_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for n in 0..1_000_000_u32 {
        // An odd multiplier scatters the order and keeps the /31s apart; every other /31 stays free.
        let network = n.wrapping_mul(0x9e37_79b1) & 0xf_ffff;
        writeln!(list, "{}/31", Ipv4Addr::from_bits(network << 2)).unwrap();
    }
    write(dir.path(), "list.txt", &list);
    let text = "version = 1\n[groups]\nl = { file = \"list.txt\" }\n[[rule]]\nname = \"x\"\naction = \"drop\"\nfrom = [\"l\"]\n";
    let main = write(dir.path(), "main.toml", text);
    let start = std::time::Instant::now();
    let loaded = rules::load(&main).unwrap();
    println!("{} bytes of list in {:?}", list.len(), start.elapsed());
    assert_eq!(loaded.rule_set.sets[0].v4.len(), 1_000_000);
}

/// The rule files that operators start from.
#[test]
fn role_files_load_without_warnings() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    let roles = [
        "application",
        "db-primary",
        "db-replica",
        "load-balancer",
        "monitoring",
        "web",
    ];
    let mut found: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .strip_suffix(".toml")
                .map(str::to_owned)
        })
        .collect();
    found.sort();
    assert_eq!(found, roles);
    for role in roles {
        let loaded = rules::load(&dir.join(format!("{role}.toml")))
            .unwrap_or_else(|report| panic!("{report}"));
        assert!(
            loaded.warnings.is_empty(),
            "{role}: {}",
            loaded.warnings[0].render(false, WIDTH)
        );
        let set = &loaded.rule_set;
        assert_eq!(
            (set.defaults.ingress, set.defaults.egress),
            (Action::Drop, Action::Drop),
            "{role}"
        );
        assert_eq!(set.essentials, Essentials::default(), "{role}");
        let ssh = set
            .rules
            .iter()
            .find(|r| r.ports.as_deref() == Some(&[(22, 22)]))
            .expect("a rule for SSH");
        assert_eq!(ssh.action, Action::Accept);
        assert!(ssh.from.is_some(), "{role} lets everybody try SSH");
        assert!(
            set.rules.iter().all(|r| r.comment.is_some()),
            "{role}: a rule says not why it is there"
        );
    }
}

/// The demo puts its client inside the load balancers' group and its attacker outside.
#[test]
fn web_serves_load_balancers_only() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules/web.toml");
    let set = rules::load(&path).unwrap().rule_set;
    let web = set
        .rules
        .iter()
        .find(|r| r.ports.as_deref() == Some(&[(80, 80), (443, 443)]))
        .unwrap();
    let from = &set.sets[web.from.unwrap().0];
    let inside = |address: [u8; 4]| {
        let address = u32::from_be_bytes(address);
        from.v4
            .iter()
            .any(|&(first, last)| first <= address && address <= last)
    };
    assert!(inside([192, 0, 2, 17]));
    assert!(!inside([198, 51, 100, 10]));
}

/// Whoever breaks into a server finds no way on but what its file names.
#[test]
fn role_files_let_out_only_what_they_name() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let set = rules::load(&path).unwrap().rule_set;
        let leaving = set
            .rules
            .iter()
            .filter(|rule| rule.direction == Direction::Egress);
        let mut names = Vec::new();
        for rule in leaving {
            assert!(
                rule.to.is_some(),
                "{}: {} reaches everybody",
                path.display(),
                rule.name
            );
            names.push(rule.name.as_str());
        }
        // Web servers have updates brought.
        let fetches = !path.ends_with("web.toml");
        let updates = fetches.then_some("updates");
        for needed in ["names", "names over TCP", "time"]
            .into_iter()
            .chain(updates)
        {
            assert!(names.contains(&needed), "{}: {needed}", path.display());
        }
    }
}

/// What a role file shows as a comment works when the signs are taken away.
#[test]
fn commented_rules_of_role_files_load() {
    for (file, name) in [("load-balancer.toml", "http/3"), ("web.toml", "updates")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../rules")
            .join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let with_sign = |line: &str| line.strip_prefix("# ").map(str::to_owned);
        let (before, rule) = text.split_once("# [[rule]]\n").unwrap();
        let (rule, after) = rule.split_once("\n\n").unwrap();
        let rule: Vec<String> = rule.lines().filter_map(with_sign).collect();
        let loaded = good(&format!("{before}[[rule]]\n{}\n\n{after}", rule.join("\n")));
        let mut rules = loaded.rule_set.rules.iter();
        assert!(rules.any(|rule| rule.name == name), "{file}");
    }
}

#[test]
fn a_web_server_that_may_reach_only_its_application_server_dns_and_ntp_is_one_short_file() {
    let text = r#"version = 1
[defaults]
egress = "drop"

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = ["http", "https"]

[[rule]]
name = "to the application server"
action = "accept"
direction = "egress"
protocol = "tcp"
ports = [8080]
to = ["192.0.2.48"]

[[rule]]
name = "DNS and NTP"
action = "accept"
direction = "egress"
protocol = "udp"
ports = ["domain", "ntp"]
to = ["192.0.2.2"]
"#;
    let loaded = good(text);
    assert!(loaded.warnings.is_empty());
    let set = &loaded.rule_set;
    let leaves = |protocol: u8, selector: Selector, to: [u8; 4], port: u16| {
        let packet = Packet {
            addresses: Addresses::V4 {
                source: u32::from_be_bytes([192, 0, 2, 32]),
                destination: u32::from_be_bytes(to),
            },
            hop_limit: 64,
            fragment: Fragment::Whole,
            transport: Transport {
                protocol,
                selector: Some(selector),
                value: port,
                source_port: 40_000,
                tcp_flags: 2,
            },
            upper: Upper::default(),
            frame_bytes: 74,
        };
        let rule = oracle::first_match(set, Direction::Egress, &packet);
        rule.map_or(set.defaults.egress, |rule| set.rules[rule].action) == Action::Accept
    };
    let (application, resolver, elsewhere) = ([192, 0, 2, 48], [192, 0, 2, 2], [198, 51, 100, 7]);
    assert!(leaves(6, Selector::Tcp, application, 8080));
    assert!(leaves(17, Selector::Udp, resolver, 53));
    assert!(leaves(17, Selector::Udp, resolver, 123));
    assert!(!leaves(6, Selector::Tcp, application, 8081));
    assert!(!leaves(6, Selector::Tcp, resolver, 8080));
    assert!(!leaves(17, Selector::Udp, elsewhere, 53));
    assert!(!leaves(6, Selector::Tcp, elsewhere, 443));
    assert!(
        !leaves(6, Selector::Tcp, elsewhere, 80),
        "`web` is about what arrives"
    );
}

/// Writes a rule set as a rule file would say it, groups for some of its sets.
fn to_toml(set: &RuleSet) -> String {
    let mut out = "version = 1\n".to_owned();
    let action = |action: Action| {
        if action == Action::Accept {
            "accept"
        } else {
            "drop"
        }
    };
    writeln!(
        out,
        "[defaults]\ningress = {:?}",
        action(set.defaults.ingress)
    )
    .unwrap();
    writeln!(
        out,
        "egress = {:?}\n[essentials]",
        action(set.defaults.egress)
    )
    .unwrap();
    let e = &set.essentials;
    for (key, on) in [
        ("arp", e.arp),
        ("neighbour-discovery", e.neighbour_discovery),
        ("path-mtu", e.path_mtu),
        ("dhcp-client", e.dhcp_client),
        ("multicast-membership", e.multicast_membership),
        ("link-layer", e.link_layer),
    ] {
        writeln!(out, "{key} = {on}").unwrap();
    }
    let Flows { size, timeouts: t } = set.flows;
    writeln!(out, "[flows]\nsize = {size}\n[flows.timeouts]").unwrap();
    for (key, seconds) in [
        ("tcp-syn-sent", t.tcp_syn_sent),
        ("tcp-established", t.tcp_established),
        ("tcp-closing", t.tcp_closing),
        ("tcp-closed", t.tcp_closed),
        ("udp", t.udp),
        ("udp-stream", t.udp_stream),
        ("icmp", t.icmp),
        ("other", t.other),
    ] {
        match seconds % 60 {
            0 => writeln!(out, "{key} = \"{}m\"", seconds / 60).unwrap(),
            _ => writeln!(out, "{key} = {seconds}").unwrap(),
        }
    }
    let Limits {
        size,
        prefix_v4,
        prefix_v6,
    } = set.limits;
    writeln!(
        out,
        "[limits]\nsize = {size}\nprefix-v4 = {prefix_v4}\nprefix-v6 = {prefix_v6}"
    )
    .unwrap();
    let Bans { size, never } = &set.bans;
    let never = named_addresses(set, never);
    writeln!(out, "[bans]\nsize = {size}\nnever-ban = {never:?}").unwrap();
    if let Some(Vlans { untagged, ids }) = &set.vlans {
        let ids: Vec<String> = ids
            .iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect();
        writeln!(out, "[vlans]\nuntagged = {untagged}\nids = {ids:?}").unwrap();
    }
    writeln!(out, "[groups]").unwrap();
    for (name, addresses) in &set.groups {
        writeln!(out, "{name} = {:?}", cidrs(addresses)).unwrap();
    }
    for rule in &set.rules {
        writeln!(
            out,
            "[[rule]]\nname = {:?}\naction = {:?}",
            rule.name,
            action(rule.action)
        )
        .unwrap();
        if rule.direction == Direction::Egress {
            writeln!(out, "direction = \"egress\"").unwrap();
        }
        if let Protocol::Number(number) = rule.protocol {
            writeln!(out, "protocol = {number}").unwrap();
        }
        if let Some(ports) = &rule.ports {
            let ports: Vec<String> = ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
            writeln!(out, "ports = {ports:?}").unwrap();
        }
        if let Some(types) = &rule.icmp_types {
            writeln!(out, "icmp-types = {types:?}").unwrap();
        }
        if let Some(flags) = rule.tcp_flags {
            let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
            let of = |bits: u8| {
                (0..8)
                    .filter(|n| bits >> n & 1 == 1)
                    .map(|n| names[n])
                    .collect::<Vec<_>>()
            };
            writeln!(
                out,
                "tcp-flags = {{ set = {:?}, clear = {:?} }}",
                of(flags.set),
                of(flags.clear)
            )
            .unwrap();
        }
        for (key, id) in [("from", rule.from), ("to", rule.to)] {
            let Some(SetId(id)) = id else { continue };
            let list = named_addresses(set, &set.sets[id]);
            writeln!(out, "{key} = {list:?}").unwrap();
        }
        out.push_str(&terms_to_toml(&rule.terms));
        if rule.log {
            writeln!(out, "log = true").unwrap();
        }
        if let Some(comment) = &rule.comment {
            writeln!(out, "comment = {comment:?}").unwrap();
        }
    }
    out
}

/// A set that is also a group goes by its name, the others are written out.
fn named_addresses(set: &RuleSet, addresses: &AddressSet) -> Vec<String> {
    let group = set.groups.iter().find(|(_, group)| *group == addresses);
    group.map_or_else(|| cidrs(addresses), |(name, _)| vec![name.clone()])
}

fn terms_to_toml(terms: &Terms) -> String {
    let mut out = String::new();
    let rate = |rate: Rate, unit: Unit| {
        let time = match rate.per_s {
            1 => 's',
            60 => 'm',
            3600 => 'h',
            _ => 'd',
        };
        match unit {
            Unit::Bytes if rate.amount.is_multiple_of(1000) => {
                format!("{}k/{time}", rate.amount / 1000)
            }
            Unit::Bytes if rate.amount.is_multiple_of(1024) => {
                format!("{}KiB/{time}", rate.amount / 1024)
            }
            _ => format!("{}/{time}", rate.amount),
        }
    };
    if let Some(limit) = terms.limit {
        let per = match limit.per {
            Per::Rule => "rule",
            Per::Source => "source",
            Per::SourcePrefix => "source-prefix",
        };
        let unit = match limit.unit {
            Unit::Packets => "packets",
            Unit::Bytes => "bytes",
            Unit::Connections => "connections",
        };
        let rate = rate(limit.rate, limit.unit);
        write!(
            out,
            "limit = {{ rate = {rate:?}, per = {per:?}, unit = {unit:?}"
        )
        .unwrap();
        // What is usual is left out.
        if limit.burst != usual_burst(limit.rate, limit.unit) {
            write!(out, ", burst = {}", limit.burst).unwrap();
        }
        writeln!(out, " }}").unwrap();
    }
    if let Some(BanAfter {
        after,
        within_s,
        for_s,
    }) = terms.ban
    {
        writeln!(
            out,
            "ban = {{ after = {after}, within = {within_s}, for = \"{for_s}s\" }}"
        )
        .unwrap();
    }
    if let Some(above) = terms.syn_cookies {
        let above = rate(above, Unit::Packets);
        writeln!(out, "syn-cookies = {{ above = {above:?} }}").unwrap();
    }
    out
}

/// Least and largest burst, as the rule language has them.
fn burst_bounds(unit: Unit) -> (u64, u64) {
    match unit {
        Unit::Packets | Unit::Connections => (1, u32::MAX.into()),
        Unit::Bytes => (Limit::MIN_BURST_BYTES, 1 << 40),
    }
}

fn usual_burst(rate: Rate, unit: Unit) -> u64 {
    let (_, most) = burst_bounds(unit);
    let least = match unit {
        Unit::Packets | Unit::Connections => 1,
        Unit::Bytes => Limit::MIN_USUAL_BURST_BYTES,
    };
    rate.amount.div_ceil(rate.per_s.into()).clamp(least, most)
}

fn cidrs(set: &AddressSet) -> Vec<String> {
    let v4 = set
        .v4
        .iter()
        .flat_map(|&(a, b)| ipnet::Ipv4Subnets::new(Ipv4Addr::from(a), Ipv4Addr::from(b), 0));
    let v6 = set
        .v6
        .iter()
        .flat_map(|&(a, b)| ipnet::Ipv6Subnets::new(Ipv6Addr::from(a), Ipv6Addr::from(b), 0));
    v6.map(|net| net.to_string())
        .chain(v4.map(|net| net.to_string()))
        .collect()
}

/// Sorted, disjoint, not adjacent ranges between random bounds.
fn ranges<T: Copy + Ord>(bounds: Vec<T>, apart: impl Fn(T, T) -> bool) -> Vec<(T, T)> {
    let mut bounds = bounds;
    bounds.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::new();
    for pair in bounds.chunks_exact(2) {
        if out.last().is_none_or(|last| apart(last.1, pair[0])) {
            out.push((pair[0], pair[1]));
        }
    }
    out
}

fn address_set() -> impl Strategy<Value = AddressSet> {
    let v4 = proptest::collection::vec(any::<u32>(), 0..6);
    // Mapped addresses (::ffff:0:0/96) cannot be written, so the random ones lie above.
    let v6 = proptest::collection::vec(1_u128 << 64.., 0..4);
    (v4, v6).prop_map(|(v4, v6)| AddressSet {
        v4: ranges(v4, |a, b| b - a > 1),
        v6: ranges(v6, |a, b| b - a > 1),
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Accept), Just(Action::Drop)]
}

prop_compose! {
    fn rate()(per_s in proptest::sample::select(vec![1, 60, 3600, 86_400]), amount in 1..=Rate::MAX_A_SECOND, digits in 0..12) -> Rate {
        // Of any size, not only of the largest.
        let amount = (amount / 10_u64.pow(digits as u32)).max(1) * u64::from(per_s);
        Rate { amount, per_s }
    }
}

prop_compose! {
    fn limit_of_any_unit()(
        rate in rate(),
        less in any::<u64>(),
        burst in proptest::option::of(any::<u64>()),
        per in proptest::sample::select(vec![Per::Rule, Per::Source, Per::SourcePrefix]),
        unit in proptest::sample::select(vec![Unit::Packets, Unit::Bytes, Unit::Connections]),
    ) -> Limit {
        let mut rate = rate;
        // Less than one a second, unless it counts bytes.
        if unit != Unit::Bytes && less % 2 == 0 {
            rate.amount = 1 + less % rate.amount;
        }
        let (least, most) = burst_bounds(unit);
        let filled = u128::from(rate.amount) * u128::from(Limit::MAX_FILL_S) / u128::from(rate.per_s);
        let most = u64::try_from(filled).unwrap_or(most).min(most);
        let burst = burst.map_or(usual_burst(rate, unit), |burst| least + burst % (most - least + 1));
        Limit { rate, burst, per, unit }
    }
}

prop_compose! {
    /// Terms of which a rule keeps those that it can have.
    fn terms()(
        limit in proptest::option::of(limit_of_any_unit()),
        ban in proptest::option::of((1..=BanAfter::MAX_AFTER, 1..=BanAfter::MAX_WITHIN_S, 1..=BanAfter::MAX_FOR_S)),
        syn_cookies in proptest::option::of(rate()),
    ) -> Terms {
        let ban = ban.map(|(after, within_s, for_s)| BanAfter { after, within_s, for_s });
        Terms { limit, ban, syn_cookies }
    }
}

prop_compose! {
    /// A rule that refers to sets by a number to be taken modulo their count.
    fn any_rule()(
        action in action(),
        egress in any::<bool>(),
        protocol in prop_oneof![
            Just(Protocol::Any),
            proptest::sample::select(vec![1, 6, 17, 58, 132]).prop_map(Protocol::Number),
            any::<u8>().prop_map(Protocol::Number),
        ],
        ports in proptest::option::of(proptest::collection::vec(1..=u16::MAX, 2..8)),
        icmp_types in proptest::option::of(proptest::collection::btree_set(any::<u8>(), 1..5)),
        flags in proptest::option::of((any::<u8>(), any::<u8>())),
        from in proptest::option::of(any::<usize>()),
        to in proptest::option::of(any::<usize>()),
        terms in terms(),
        log in any::<bool>(),
        comment in proptest::option::of("[ -~äß]{0,20}"),
    ) -> Rule {
        let number = if let Protocol::Number(number) = protocol { Some(number) } else { None };
        let accepts = action == Action::Accept;
        let limit = terms
            .limit
            .filter(|limit| accepts && (limit.unit != Unit::Connections || matches!(number, Some(6 | 17))));
        let terms = Terms {
            limit,
            ban: terms.ban.filter(|_| !egress && (!accepts || limit.is_some())),
            syn_cookies: terms.syn_cookies.filter(|_| !egress && accepts && number == Some(6)),
        };
        Rule {
            name: String::new(),
            action,
            direction: if egress { Direction::Egress } else { Direction::Ingress },
            protocol,
            ports: ports.filter(|_| matches!(number, Some(6 | 17 | 132))).map(|p| ranges(p, |a, b| b - a > 1)),
            icmp_types: icmp_types.filter(|_| matches!(number, Some(1 | 58))).map(|t| t.into_iter().collect()),
            tcp_flags: flags
                .filter(|(set, clear)| number == Some(6) && set | clear != 0)
                .map(|(set, clear)| TcpFlags { set, clear: clear & !set }),
            from: from.map(SetId),
            to: to.map(SetId),
            terms,
            log,
            comment,
            line: 0,
        }
    }
}

prop_compose! {
    fn flows()(
        size in Flows::MIN_SIZE..=Flows::MAX_SIZE,
        times in proptest::array::uniform8(1..=Flows::MAX_TIMEOUT_S),
    ) -> Flows {
        let [tcp_syn_sent, tcp_established, tcp_closing, tcp_closed, udp, udp_stream, icmp, other] = times;
        Flows {
            size,
            timeouts: Timeouts {
                tcp_syn_sent, tcp_established, tcp_closing, tcp_closed, udp, udp_stream, icmp, other,
            },
        }
    }
}

prop_compose! {
    fn limits()(size in Limits::MIN_SIZE..=Limits::MAX_SIZE, prefix_v4 in 1_u8..=32, prefix_v6 in 1_u8..=128) -> Limits {
        Limits { size, prefix_v4, prefix_v6 }
    }
}

prop_compose! {
    fn vlans()(untagged in any::<bool>(), one in 1u16..50, first in 60u16..70, last in 70u16..=4094) -> Vlans {
        Vlans { untagged, ids: vec![(one, one), (first, last)] }
    }
}

prop_compose! {
    fn rule_set()(
        ingress in action(),
        egress in action(),
        essentials in any::<[bool; 6]>(),
        flows in flows(),
        limits in limits(),
        ban_size in Bans::MIN_SIZE..=Bans::MAX_SIZE,
        never in proptest::option::of(any::<usize>()),
        vlans in proptest::option::of(vlans()),
        pool in proptest::collection::vec(address_set(), 1..5),
        mut rules in proptest::collection::vec(any_rule(), 0..6),
        grouped in any::<[bool; 5]>(),
    ) -> RuleSet {
        // Sets get their numbers in the order in which rules name them, equal ones the same.
        let mut sets: Vec<AddressSet> = Vec::new();
        let mut number = |SetId(n): SetId| {
            let set = &pool[n % pool.len()];
            let known = sets.iter().position(|s| s == set);
            SetId(known.unwrap_or_else(|| { sets.push(set.clone()); sets.len() - 1 }))
        };
        for (n, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("rule {n}");
            rule.from = rule.from.map(&mut number);
            rule.to = rule.to.map(&mut number);
        }
        // An empty set can only be written as an empty group.
        let groups: BTreeMap<String, AddressSet> = pool
            .iter()
            .zip(grouped)
            .enumerate()
            .filter(|(_, (set, grouped))| *grouped || **set == AddressSet::default())
            .map(|(n, (set, _))| (format!("group-{n}"), set.clone()))
            .collect();
        let [arp, neighbour_discovery, path_mtu, dhcp_client, multicast_membership, link_layer] = essentials;
        RuleSet {
            defaults: Defaults { ingress, egress },
            essentials: Essentials {
                arp, neighbour_discovery, path_mtu, dhcp_client, multicast_membership, link_layer,
            },
            flows,
            limits,
            bans: Bans {
                size: ban_size,
                never: never.map_or_else(AddressSet::default, |n| pool[n % pool.len()].clone()),
            },
            vlans,
            sets,
            rules,
            groups,
            lists: BTreeMap::new(),
        }
    }
}

/// Pieces of rule files, to be put together at random: nearly right files find more than random bytes do.
const PIECES: &[&str] = &[
    "version = 1\n",
    "[groups]\n",
    "[groups.a]\n",
    "a = [\"b\"]\n",
    "b = [\"a\", \"192.0.2.0/24\"]\n",
    "[[rule]]\n",
    "[[rule.a]]\n",
    "[rule]\n",
    "name = \"x\"\n",
    "action = \"accept\"\n",
    "protocol = \"tcp\"\n",
    "protocol = \"icmp\"\n",
    "ports = [",
    "80",
    ", ",
    "]",
    "[",
    "{",
    "}",
    "\"",
    "'''",
    "\n",
    "=",
    ".",
    "from = [\"a\"]\n",
    "to = []\n",
    "\"9-1\"",
    "tcp-flags = { set = [\"syn\"] }\n",
    "icmp-types = [1]\n",
    "#",
    "é",
    "\u{feff}",
    "\r\n",
    "\0",
    "rule = 1\n",
    "a.b.c = 1\n",
    "[a.b]\n",
    "[[a]]\n",
    "1979-05-27",
    "{ file = \"x\" }\n",
    "[flows]\n",
    "[flows.timeouts]\n",
    "size = 9\n",
    "udp = \"5m\"\n",
    "[limits]\n",
    "prefix-v4 = 0\n",
    "[bans]\n",
    "never-ban = [\"a\"]\n",
    "[rule.limit]\n",
    "rate = \"10M/s\"\n",
    "unit = \"bytes\"\n",
    "limit = {",
    "limit = { rate = \"1/d\", burst = 5000, unit = \"connections\" }\n",
    "ban = { after = 1, within = 1, for = \"1d\" }\n",
    "syn-cookies = { above = \"5000/s\" }\n",
    "\\u0000",
    "inf",
    "0x",
    "_",
];

proptest! {
    // PROPTEST_CASES asks for more than the default of 256.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(report) = parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!report.errors.is_empty());
            report.render(true, 80);
        }
    }

    #[test]
    fn any_pieces_are_read_or_refused(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        if let Err(report) = parse(&pieces.concat()) {
            prop_assert!(!report.errors.is_empty());
            report.render(false, 20);
        }
    }

    #[test]
    fn a_valid_rule_set_survives_being_written_and_read(mut wanted in rule_set()) {
        let text = to_toml(&wanted);
        let read = rules::parse("written.toml", &text, Path::new("")).map_err(|r| TestCaseError::fail(format!("{r}\n{text}")))?;
        let headings = text.lines().enumerate().filter(|(_, line)| *line == "[[rule]]").map(|(n, _)| n + 1);
        for (rule, line) in wanted.rules.iter_mut().zip(headings) {
            rule.line = line;
        }
        prop_assert_eq!(read.rule_set, wanted);
    }
}
