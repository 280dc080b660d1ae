//! The command and the program at work: real traffic through guarded veth interfaces in network namespaces.

mod command;
mod control;
mod faults;
mod link_layer;
mod probe;
mod shapes;
mod switching;
mod traffic;

/// Both ways to attach an XDP program to a veth interface.
const MODES: [&str; 2] = ["native", "generic"];

/// A rule file with these rules, the keys of each separated by `; `. What none matches is dropped.
fn rules(rules: &[&str]) -> String {
    let mut text = "version = 1\n".to_owned();
    for rule in rules {
        text += &format!("\n[[rule]]\n{}\n", rule.replace("; ", "\n"));
    }
    text
}
