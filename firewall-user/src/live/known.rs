//! Addresses that come into a list which is in force, or leave it, without reading the list and without making its tables anew: of a
//! million others nothing has to be known but that these are none of them, which the tables tell.

use anyhow::{Context as _, Result};
use firewall_common::abi::image::Line;

use super::Live;
use crate::kernel::description::Policy;
use crate::kernel::guard::Guard;
use crate::kernel::image::{Draft, Image};
use crate::list_rows::{KnownList, ListRows};
use crate::policy::{Prepared, sha256};
use crate::rules::addresses::{Block, parse_block};
use crate::rules::asserts::Within;
use crate::rules::compile::lists::{Extend, Way, alone, change_list};
use crate::rules::lists::{self, Lists};
use crate::rules::{self, Source};

impl Extend for Draft {
    fn extend_by(&mut self, lines: &[Line]) -> bool {
        Draft::extend_by(self, lines)
    }
}

/// Changes the group called `group`, if it is a list of which enough is known. If not, all is as it was.
///
/// # Errors
///
/// The tables in force cannot be read, or an assertion would not hold any more.
pub(crate) fn change(
    guard: &Guard,
    live: &mut Live,
    group: &str,
    members: &[String],
    way: Way,
) -> Result<Option<Prepared>> {
    let policy = &guard.description.policy;
    let Some((path, rows)) = list_of(policy, group) else {
        return Ok(None);
    };
    let Some(list) = live.kept.lists.iter().find(|list| list.name == path) else {
        return Ok(None);
    };
    let is_known = |line: &String| match way {
        Way::In => !list.added.contains(line) && !list.removed.contains(line),
        Way::Out => list.alone.contains(line),
    };
    let blocks: Vec<Block> = (members.iter())
        .filter(|line| is_known(line))
        .filter_map(|line| parse_block(line.as_bytes()).ok())
        .collect();
    if blocks.len() < members.len() {
        return Ok(None);
    }
    let is_asserted = policy.asserts > 0;
    let rows: Option<Vec<ListRows>> = match is_asserted {
        true => rows.iter().map(alone).collect(),
        false => Some(rows.to_vec()),
    };
    let side = one_side(policy, path);
    let (Some(rows), false) = (rows, is_asserted && side.is_none()) else {
        return Ok(None);
    };
    let lines = policy.image_bytes as usize / size_of::<Line>();
    let Some(mut image) = guard.draft()? else {
        return Ok(None);
    };
    let fits = image.extend_by(&guard.tables()?[..lines]);
    if !fits || !(blocks.iter()).all(|&block| change_list(&mut image, &rows, block, way)) {
        return Ok(None);
    }
    if let (true, Some(is_destination)) = (is_asserted, side) {
        for (line, &block) in members.iter().zip(&blocks) {
            let within = Within {
                block,
                is_destination,
            };
            check_asserts(live, path, line, way, within)?;
        }
    }

    let list = live.kept.lists.iter_mut().find(|list| list.name == path);
    let list = list.context("the list was there")?;
    for line in members {
        match way {
            Way::In => {
                list.added.insert(line.clone());
                list.alone.insert(line.clone());
            }
            Way::Out => {
                list.added.remove(line);
                list.alone.remove(line);
            }
        }
    }
    let what = format!("{} {path} {way:?} {members:?}", policy.image_sha256);
    let policy = Policy {
        image_sha256: format!("{}{}", Policy::PATCHED, sha256(what.as_bytes())),
        image_bytes: size_of_val(&image[..]) as u64,
        ..policy.clone()
    };
    Ok(Some(Prepared {
        image: Image::Draft(image),
        policy,
        warnings: Vec::new(),
    }))
}

/// The list that a group is, and what becomes of its addresses.
fn list_of<'a>(policy: &'a Policy, group: &str) -> Option<(&'a str, &'a [ListRows])> {
    let mut lists = policy.lists.iter();
    let (path, list) = lists.find(|(_, list)| list.groups.contains(group))?;
    Some((path, list.rows.as_deref()?))
}

/// Whether the list at `path` is about destinations, where it is about these or about sources alone, and no list about the others: of
/// packets from an address in no list, say, all is then known although no list is.
fn one_side(policy: &Policy, path: &str) -> Option<bool> {
    let is_destination = policy.lists[path].rows.as_ref()?.first()?.is_destination;
    let is_so = |list: &KnownList| {
        let rows = list.rows.as_ref();
        rows.is_some_and(|rows| {
            rows.iter()
                .all(|rows| rows.is_destination == is_destination)
        })
    };
    policy.lists.values().all(is_so).then_some(is_destination)
}

/// Refuses a line of the list at `path` if an assertion would not hold any more for its addresses, which are in no list otherwise.
fn check_asserts(live: &Live, path: &str, line: &str, way: Way, within: Within) -> Result<()> {
    let lists: Lists = (live.kept.lists.iter())
        .map(|list| {
            let text = match way {
                Way::In if list.name == path => line,
                Way::In | Way::Out => "",
            };
            (list.name.clone(), Source::new(&list.path, text))
        })
        .collect();
    let lists = lists::From::Kept(&lists);
    rules::parse_within(&live.kept.file, &live.text, lists, within)?;
    Ok(())
}
