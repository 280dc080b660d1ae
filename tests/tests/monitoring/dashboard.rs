//! The dashboard for Grafana: what it asks can be asked, and it shows every metric that there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::rules::promtool;
use crate::{dist, named, samples};

/// As much of it as matters here; <https://grafana.com/docs/grafana/v10.4/dashboards/build-dashboards/view-dashboard-json-model/>
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dashboard {
    title: String,
    uid: String,
    schema_version: u32,
    panels: Vec<Panel>,
    templating: List<Variable>,
    annotations: List<Value>,
}

#[derive(Debug, Deserialize)]
struct List<T> {
    list: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Panel {
    id: u32,
    title: String,
    #[serde(default)]
    description: String,
    #[serde(rename = "type")]
    kind: String,
    grid_pos: Place,
    #[serde(default)]
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Place {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    datasource: Datasource,
    expr: String,
    ref_id: String,
}

#[derive(Debug, Deserialize)]
struct Datasource {
    uid: String,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

fn dashboard() -> Result<Dashboard> {
    let text = fs::read_to_string(dist("grafana/firewall.json"))?;
    serde_json::from_str(&text).context("the dashboard")
}

/// What the panels and annotations ask, as Grafana would, all hosts and interfaces chosen.
pub(crate) fn expressions() -> Result<BTreeMap<String, String>> {
    let dashboard = dashboard()?;
    let panels = dashboard.panels.iter().flat_map(|panel| {
        panel.targets.iter().map(|target| {
            let place = format!("{} {}", panel.title, target.ref_id);
            (place, target.expr.as_str())
        })
    });
    let annotations = dashboard.annotations.list.iter().filter_map(|annotation| {
        let expression = annotation["expr"].as_str()?;
        Some((annotation["name"].to_string(), expression))
    });
    Ok(panels
        .chain(annotations)
        .map(|(place, expression)| {
            let asked = expression
                .replace("$instance", ".*")
                .replace("$interface", ".*")
                .replace("$__rate_interval", "1m");
            (place, asked)
        })
        .collect())
}

#[test]
fn panels_have_their_own_places_and_say_what_they_show() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(!dashboard.title.is_empty() && !dashboard.uid.is_empty());
    // That of Grafana 10.0, which later versions migrate from.
    ensure!(dashboard.schema_version == 38);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in &dashboard.panels {
        let Panel { id, title, .. } = panel;
        ensure!(ids.insert(*id), "{title}: the id {id} is taken");
        let Place { x, y, w, h } = panel.grid_pos;
        ensure!(
            w > 0 && h > 0 && x + w <= 24,
            "{title}: {:?}",
            panel.grid_pos
        );
        for column in x..x + w {
            for line in y..y + h {
                ensure!(taken.insert((column, line)), "{title} lies over another");
            }
        }
        if panel.kind == "row" {
            continue;
        }
        ensure!(panel.description.ends_with('.'), "{title} says nothing");
        let known = ["stat", "state-timeline", "table", "timeseries"];
        ensure!(
            known.contains(&panel.kind.as_str()),
            "{title}: {}",
            panel.kind
        );
        ensure!(!panel.targets.is_empty(), "{title} asks nothing");
        let mut references = BTreeSet::new();
        for target in &panel.targets {
            ensure!(target.datasource.uid == "${datasource}", "{title}");
            ensure!(references.insert(&target.ref_id), "{title}: {target:?}");
        }
    }
    Ok(())
}

#[test]
fn variables_choose_data_source_host_and_interface() -> Result<()> {
    let variables = dashboard()?.templating.list;
    let variables: Vec<_> = variables
        .iter()
        .map(|variable| (variable.name.as_str(), variable.kind.as_str()))
        .collect();
    let expected = [
        ("datasource", "datasource"),
        ("instance", "query"),
        ("interface", "query"),
    ];
    ensure!(variables == expected, "{variables:?}");
    for (place, expression) in expressions()? {
        ensure!(!expression.contains('$'), "{place}: {expression}");
    }
    Ok(())
}

#[test]
fn expressions_can_be_read() -> Result<()> {
    let rules: Vec<_> = expressions()?
        .into_values()
        .enumerate()
        .map(
            |(index, expression)| json!({ "record": format!("panel:{index}"), "expr": expression }),
        )
        .collect();
    let directory = tempfile::tempdir()?;
    // Which is YAML as well.
    let file = directory.path().join("panels.yml");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string())?;
    promtool(&["check", "rules"], &file)
}

#[test]
fn it_shows_every_metric_that_there_is_and_no_other() -> Result<()> {
    let all = expressions()?.into_values().collect::<Vec<_>>().join("\n");
    let (shown, samples) = (named(&all), samples());
    let missing: Vec<_> = samples.difference(&shown).collect();
    let unknown: Vec<_> = shown.difference(&samples).collect();
    ensure!(missing.is_empty(), "not shown: {missing:?}");
    ensure!(unknown.is_empty(), "no such metric: {unknown:?}");
    Ok(())
}
