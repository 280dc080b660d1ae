use std::path::Path;

use proptest::prelude::*;

use super::super::file::parse_in_pieces;
use super::super::lists;

/// What a file is read as, in words.
fn meaning(text: &str, size: usize) -> String {
    let from = lists::From::Directory(Path::new("/nonexistent"));
    match parse_in_pieces("a.toml", text, from, None, size) {
        Ok(loaded) => format!(
            "{:?} {:?} {:?} {}",
            loaded.rule_set, loaded.rule_places, loaded.warnings, loaded.asserts
        ),
        Err(report) => report.render(false, 100),
    }
}

fn is_the_same(text: &str) -> Result<(), TestCaseError> {
    let whole = meaning(text, usize::MAX);
    for size in [0, 100, 400] {
        prop_assert_eq!(&meaning(text, size), &whole, "{}", text);
    }
    Ok(())
}

const HEADS: &[&str] = &[
    "version = 1\n",
    "# of a file\r\nversion = 1\r\n\r\n",
    "version = 1\n[groups]\noffice = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n",
    "version = 1\n[flows]\nsize = 4096\n",
    "version = 1\n[defaults]\ningress = \"accept\"\n[[assert]]\npacket = \"tcp to :22\"\nexpect = \"accept\"\n",
    "version = 1\n[[ rule ]]\nname = \"first\"\naction = \"drop\"\n",
    "version = 1\nrule = [{ name = \"first\", action = \"drop\" }]\n",
    "",
];

const KEYS: &[&str] = &[
    "protocol = \"tcp\"\nports = [22, \"80-90\"]\n",
    "protocol = \"udp\"\nports = [\n  53, # names\n]\n",
    "protocol = \"icmp\"\nicmp-types = [\"echo-request\"]\n",
    "protocol = \"tcp\"\ntcp-flags = { set = [\"syn\"], clear = [\"ack\"] }\n",
    "from = [\"198.51.100.0/24\", \"2001:db8::/64\"]\n",
    "from = [\"office\"]\nto = [\"203.0.113.1\"]\n",
    "comment = \"\"\"of several lines\n[[rule]]\nand more\"\"\"\n",
    "comment = 'é [[rule]]'\n# [[rule]]\n",
    "limit = { rate = \"200/s\", burst = 400, per = \"source\" }\n",
    "ban = { after = 3, within = \"10s\", for = \"10m\" }\nlog = true\n",
    "protocol = \"tcp\"\n[rule.syn-cookies]\nabove = \"5000/s\"\n",
    "from = [\n[[rule]]\n]\n",
    "ports = [80\n",
    "log = 1\n",
];

const BETWEEN: &[&str] = &[
    "",
    "",
    "",
    "\n# ---- a section ----\n\n",
    "[limits]\nsize = 4096\n",
    "[flows.timeouts]\nudp = \"30s\"\n",
    "[[assert]]\npacket = \"tcp to :22\"\nexpect = \"drop\"\n",
    "[vlans]\nids = [10]\n",
    "[assert]\n",
    "[rules]\n",
];

fn file() -> impl Strategy<Value = String> {
    let rule = (
        0..12usize,
        prop::sample::subsequence(KEYS, 0..=2),
        prop::sample::select(BETWEEN),
        prop::sample::select(&[
            "[[rule]]\n",
            "[[rule]]\n",
            "[[rule]]\r\n",
            " [[rule]]\n",
            "[[ rule ]]\n",
        ]),
    );
    let rules = prop::collection::vec(rule, 0..12);
    (prop::sample::select(HEADS), rules).prop_map(|(head, rules)| {
        let mut text = head.to_owned();
        for (place, (name, keys, between, heading)) in rules.into_iter().enumerate() {
            // Some have the name of another.
            let name = if name == 0 { 0 } else { place };
            text += &format!("{heading}name = \"r{name}\"\naction = \"accept\"\n");
            text += &keys.concat();
            text += between;
        }
        text
    })
}

proptest! {
    #[test]
    fn pieces_mean_what_the_whole_means(text in file()) {
        is_the_same(&text)?;
    }

    #[test]
    fn text_cut_anywhere_is_told_of_as_the_whole(text in file(), at in 0..2000usize) {
        let at = text.floor_char_boundary(at);
        is_the_same(&text[..at])?;
    }
}

#[test]
fn most_files_are_read_in_pieces() {
    let rules: String = (0..50)
        .map(|n| format!("# {n}\n[[rule]]\nname = \"r{n}\"\naction = \"drop\"\n"))
        .collect();
    let text = format!("version = 1\n{rules}[limits]\nsize = 4096\n");
    let source = super::Source::new("a.toml", &text[..]);
    let pieces: Vec<_> = super::pieces(&text, 200).collect();
    assert_eq!(
        pieces
            .iter()
            .map(|piece| &text[piece.clone()])
            .collect::<String>(),
        text
    );
    assert!(pieces.len() > 5, "{pieces:?}");
    let file = super::read(&text, &source, 200).expect("nothing is wrong with it");
    assert_eq!(file.rules.len(), 50);
}
