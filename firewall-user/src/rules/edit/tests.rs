use proptest::prelude::*;

use super::*;
use crate::rules::notation;

const FILE: &str = "\
# A web server.
version = 1

[groups]
# Who may log in.
office = [\"192.0.2.0/24\", \"2001:db8::/32\"] # and others
guests = [
    \"198.51.100.1\", # Ann
    \"198.51.100.2\", # Bob
]
refused = { file = \"refused.txt\" }

# ---- What is served ----

# The site.
[[rule]]
name = \"web\"   # a name
action = \"accept\"
protocol = \"tcp\"
ports = [80, 443]

# Administration.
[[rule]]
name = \"ssh\"
action = \"accept\"
protocol = \"tcp\"
ports = [22]
from = [\"office\"]

[limits]
size = 4096
";

fn edited(edit: impl FnOnce(&mut Document<'_>)) -> String {
    let mut document = Document::parse(FILE).unwrap();
    edit(&mut document);
    let text = document.text();
    let again: Result<toml::Table, _> = toml::from_str(&text);
    assert!(again.is_ok(), "{text}");
    text
}

fn add(document: &mut Document<'_>, line: &str, place: Place<'_>) -> String {
    let typed = notation::parse(line).unwrap();
    document.add_rule(typed, None, None, place).unwrap()
}

#[test]
fn nothing_changed_is_nothing_changed() {
    assert_eq!(edited(|_| {}), FILE);
}

#[test]
fn a_rule_goes_where_it_is_wanted() {
    let rule =
        "[[rule]]\nname = \"tcp 8443\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [8443]\n";
    let before = edited(|file| {
        assert_eq!(
            add(file, "accept tcp 8443", Place::Before("ssh")),
            "tcp 8443"
        );
    });
    assert_eq!(
        before,
        FILE.replace(
            "\n# Administration.",
            &format!("\n{rule}\n# Administration.")
        )
    );
    let after = edited(|file| {
        add(file, "accept tcp 8443", Place::After("web"));
    });
    assert_eq!(after, before);
    let last = edited(|file| {
        add(file, "accept tcp 8443", Place::Last);
    });
    assert_eq!(
        last,
        FILE.replace("\n[limits]", &format!("\n{rule}\n[limits]"))
    );
    let first = edited(|file| {
        add(file, "accept tcp 8443", Place::Before("web"));
    });
    assert_eq!(first.matches(rule).count(), 1);
    assert!(first.find(rule) < first.find("# The site."), "{first}");
}

#[test]
fn names_are_not_used_twice() {
    edited(|file| {
        add(file, "accept tcp 8443", Place::Last);
        assert_eq!(add(file, "drop tcp 8443", Place::Last), "tcp 8443 2");
        let typed = notation::parse("accept tcp 1").unwrap();
        let error = file
            .add_rule(typed, Some("web"), None, Place::Last)
            .unwrap_err();
        assert!(error.contains("`web`"), "{error}");
    });
}

#[test]
fn a_rule_goes_with_its_comment_and_leaves_headings() {
    let without_web = edited(|file| file.remove_rule("web").unwrap());
    assert!(
        !without_web.contains("The site") && without_web.contains("---- What is served"),
        "{without_web}"
    );
    assert!(
        without_web.contains("# Administration.\n[[rule]]\nname = \"ssh\""),
        "{without_web}"
    );
    let without_ssh = edited(|file| file.remove_rule("ssh").unwrap());
    assert_eq!(
        without_ssh,
        FILE.replace(
            &FILE[FILE.find("# Administration").unwrap()..FILE.find("[limits]").unwrap()],
            ""
        )
    );
    let error = Document::parse(FILE)
        .unwrap()
        .remove_rule("shh")
        .unwrap_err();
    assert!(error.contains("`shh`"), "{error}");
}

#[test]
fn what_was_added_can_be_taken_out_again() {
    for place in [Place::Before("web"), Place::After("web"), Place::Last] {
        let same = edited(|file| {
            let name = add(file, "accept udp 53", place);
            file.remove_rule(&name).unwrap();
        });
        assert_eq!(same, FILE, "{place:?}");
    }
}

#[test]
fn members_come_and_go_as_the_others_are_written() {
    let more = ["203.0.113.0/24".to_owned(), "192.0.2.0/24".to_owned()];
    let added = edited(|file| {
        assert_eq!(
            file.add_members("office", &more).unwrap(),
            ["203.0.113.0/24"]
        );
        assert_eq!(
            file.add_members("guests", &more[..1]).unwrap(),
            ["203.0.113.0/24"]
        );
    });
    assert_eq!(
        added,
        FILE.replace(
            "\"2001:db8::/32\"]",
            "\"2001:db8::/32\", \"203.0.113.0/24\"]"
        )
        .replace("# Bob\n]", "# Bob\n    \"203.0.113.0/24\",\n]")
    );
    let removed = edited(|file| {
        // However it is written.
        let office = ["2001:0db8::/32".to_owned()];
        assert_eq!(file.remove_members("office", &office).unwrap(), office);
        assert_eq!(
            file.remove_members("guests", &["198.51.100.1/32".to_owned()])
                .unwrap()
                .len(),
            1
        );
        assert!(
            file.remove_members("guests", &["198.51.100.9".to_owned()])
                .unwrap()
                .is_empty()
        );
    });
    assert_eq!(
        removed,
        FILE.replace(", \"2001:db8::/32\"]", "]")
            .replace("    \"198.51.100.1\", # Ann\n", "")
    );
    let last = edited(|file| {
        file.remove_members("guests", &["198.51.100.2".to_owned()])
            .unwrap();
    });
    assert_eq!(last, FILE.replace("    \"198.51.100.2\", # Bob\n", ""));
}

#[test]
fn a_group_says_where_its_members_are() {
    let file = Document::parse(FILE).unwrap();
    assert_eq!(file.members("office"), Ok(Members::Here));
    assert_eq!(
        file.members("refused"),
        Ok(Members::List("refused.txt".to_owned()))
    );
    assert!(
        file.members("offices")
            .unwrap_err()
            .contains("office, guests, refused")
    );
}

/// A part of a file is changed as the whole of it would be.
#[test]
fn what_is_not_read_is_left_alone() {
    let rule = |number: usize| {
        format!(
            "# About {number}.\n[[rule]]\nname = \"r{number}\" # a name\naction = \"accept\"\nprotocol = \"udp\"\nports = [{}]\n\n",
            number + 1
        )
    };
    let rules: String = (0..12).map(rule).collect();
    let text = format!(
        "# Of a file.\nversion = 1\n\n# Rules.\n\n{rules}# The end.\n[limits]\nsize = 4096\n"
    );
    let rules = rules_of(&text);
    let places = (0..12)
        .flat_map(|n| [(Some(n), true), (Some(n), false)])
        .chain([(None, false)]);
    for (beside, before) in places {
        let name = beside.map(|n| format!("r{n}"));
        let place = match &name {
            Some(name) if before => Place::Before(name),
            Some(name) => Place::After(name),
            None => Place::Last,
        };
        let mut part = Document::around(&text, &rules, name.as_deref()).unwrap();
        let mut whole = Document::parse(&text).unwrap();
        for document in [&mut part, &mut whole] {
            assert_eq!(add(document, "accept tcp 80", place), "tcp 80");
            let error = document
                .add_rule(
                    notation::parse("drop tcp 1").unwrap(),
                    Some("r0"),
                    None,
                    place,
                )
                .unwrap_err();
            assert!(error.contains("`r0`"), "{error}");
        }
        assert_eq!(part.text(), whole.text(), "{place:?}");
        let with_it = part.text();
        let rules_with_it = rules_of(&with_it);
        let mut part = Document::around(&with_it, &rules_with_it, Some("tcp 80")).unwrap();
        part.remove_rule("tcp 80").unwrap();
        assert_eq!(part.text(), text, "{place:?}");
        if let Some(name) = name {
            let (mut part, mut whole) = (
                Document::around(&with_it, &rules_with_it, Some(&name)).unwrap(),
                Document::parse(&with_it).unwrap(),
            );
            part.remove_rule(&name).unwrap();
            whole.remove_rule(&name).unwrap();
            assert_eq!(part.text(), whole.text(), "{name}");
        }
    }
    assert!(Document::around(&text, &rules, Some("r99")).is_err());
}

/// The rules of a file, as a live edit knows them.
fn rules_of(text: &str) -> Vec<RuleAt> {
    let loaded = crate::rules::parse("a.toml", text, std::path::Path::new(".")).unwrap();
    let rules = loaded.rule_set.rules.into_iter();
    rules
        .map(|rule| RuleAt {
            name: rule.name,
            line: rule.line,
        })
        .collect()
}

#[test]
fn a_table_of_its_own_stays_with_its_rule() {
    let rule = |name: &str| {
        format!("[[rule]]\nname = \"{name}\"\naction = \"accept\"\nprotocol = \"tcp\"\n")
    };
    let limit = "[rule.limit]\nrate = \"5/s\"\n";
    let text = format!("version = 1\n{}{limit}{}{limit}", rule("a"), rule("b"));
    for (place, order) in [
        (Place::After("a"), ["a", "tcp 80", "b"]),
        (Place::Before("b"), ["a", "tcp 80", "b"]),
        (Place::Last, ["a", "b", "tcp 80"]),
    ] {
        let mut document = Document::parse(&text).unwrap();
        add(&mut document, "drop tcp 80", place);
        let edited = document.text();
        let loaded = crate::rules::parse("a.toml", &edited, std::path::Path::new(".")).unwrap();
        let rules = loaded.rule_set.rules;
        let names: Vec<&str> = rules.iter().map(|rule| &rule.name[..]).collect();
        assert_eq!(names, order, "{edited}");
        assert!(
            rules
                .iter()
                .all(|rule| rule.terms.limit.is_some() == (rule.name != "tcp 80")),
            "{edited}"
        );
    }
}

/// An edit: what is done beside which of the rules.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Last,
    Before(usize),
    After(usize),
    Remove(usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        Just(Edit::Last),
        (0..100usize).prop_map(Edit::Before),
        (0..100usize).prop_map(Edit::After),
        (0..100usize).prop_map(Edit::Remove),
    ];
    prop::collection::vec(edit, 1..8)
}

const RULES: &[&str] = &[
    "# One.\n[[rule]]\nname = \"N\"\naction = \"drop\"\n",
    "\n[[rule]] # and two\nname = \"N\"\naction = \"accept\"\nprotocol = \"udp\"\nports = [\n    53, # names\n]\n",
    "\n# ---- a section ----\n\n# Three.\n[[rule]]\nname = \"N\"\naction = \"accept\"\nprotocol = \"tcp\"\n\n[rule.limit]\nrate = \"5/s\"\n",
    "[[rule]]\naction = \"drop\"\ncomment = \"\"\"\n[[rule]]\nname = \"r1\" \"\"\"\nname = \"N\"\n\n",
    "  [[rule]]\n  name = \"N\"\n  action = \"drop\"\n",
    "\n[[assert]]\npacket = \"udp to :9\"\nexpect = \"drop\"\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever is done to a file, in parts, comes to what it is when the whole file is read for it.
    #[test]
    fn edits_of_parts_are_edits_of_the_whole(
        kinds in prop::collection::vec(prop::sample::select(RULES), 0..14),
        tail in prop::sample::select(&["", "# The end.\n", "\n[limits]\nsize = 4096\n"]),
        edits in edits(),
    ) {
        let rules: String = (0..).zip(kinds).map(|(n, rule)| rule.replace('N', &format!("r{n}"))).collect();
        let mut text = format!("version = 1\n{rules}{tail}");
        for (round, edit) in (0..).zip(edits) {
            let rules = rules_of(&text);
            let name = |at: usize| rules.get(at % rules.len().max(1)).map(|rule| &rule.name[..]);
            let beside = match edit {
                Edit::Last => None,
                Edit::Before(at) | Edit::After(at) | Edit::Remove(at) => name(at),
            };
            let mut part = Document::around(&text, &rules, beside).unwrap();
            let mut whole = Document::parse(&text).unwrap();
            for document in [&mut part, &mut whole] {
                match (edit, beside) {
                    (Edit::Remove(_), Some(name)) => document.remove_rule(name).unwrap(),
                    (_, None) => drop(add(document, &format!("drop tcp {}", 100 + round), Place::Last)),
                    (Edit::Before(_), Some(name)) => {
                        drop(add(document, "accept tcp 80 limit 5/s", Place::Before(name)));
                    }
                    (_, Some(name)) => drop(add(document, "accept tcp 80", Place::After(name))),
                }
            }
            prop_assert_eq!(part.text(), whole.text(), "{:?} beside {:?} in {}", edit, beside, text);
            text = part.text();
        }
    }
}
