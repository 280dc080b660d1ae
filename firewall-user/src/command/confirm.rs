//! `firewall confirm`: keep what is on trial.

use anyhow::{Result, bail};
use serde_json::json;

use super::guards;
use crate::kernel::guard::Trial;
use crate::output::Output;
use crate::{lock, privilege};

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    let mut results = Vec::new();
    for (name, mut guard) in guards(names)? {
        // Without names it is about what waits; whoever names an interface is told that nothing does.
        if names.is_empty() && guard.trial == Trial::Over {
            continue;
        }
        let left = (guard.confirm()).map_err(|error| error.context(name.clone()))?;
        let generation = guard.description.generation;
        output.text(format_args!(
            "{name}: generation {generation} stays, confirmed with {left} s left"
        ))?;
        results.push(json!({ "interface": name, "generation": generation, "left_s": left }));
    }
    if results.is_empty() {
        bail!("nothing waits to be confirmed");
    }
    output.json(&results)
}
