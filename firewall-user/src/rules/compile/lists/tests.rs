use std::cell::Cell;

use firewall_common::parse::Packet;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::counters::Slots;
use crate::rules::addresses::SetBuilder;
use crate::rules::compile::tests::{V4, V6, by_tables, packet, rule_set};
use crate::rules::compile::{Compiled, compile};
use crate::rules::model::{NamedList, RuleSet};
use crate::rules::oracle;

/// Blocks that begin or end where the sets and packets of the tests do.
fn block() -> impl Strategy<Value = Block> {
    let v4 = (select(&V4[..]), 0u32..10).prop_map(|(address, bits)| {
        let host = (1 << bits) - 1;
        Block::V4(address & !host, address | host)
    });
    let v6 = (select(&V6[..]), select(&[0, 1, 60, 64, 65][..])).prop_map(|(address, bits)| {
        let host = (1 << bits) - 1;
        Block::V6(address & !host, address | host)
    });
    prop_oneof![v4, v6]
}

/// `rule_set` with a list of `blocks` in the sets of which `within` says so.
fn with_list(rule_set: &RuleSet, within: &[bool], blocks: &[Block]) -> RuleSet {
    let mut rule_set = rule_set.clone();
    let mut list = NamedList::default();
    for (index, (set, is_in)) in rule_set.sets.iter_mut().zip(within).enumerate() {
        if *is_in {
            let mut builder = SetBuilder::default();
            builder.add_set(set);
            blocks.iter().for_each(|&block| builder.push(block));
            *set = builder.finish();
            list.sets.insert(SetId(index));
        }
    }
    rule_set.lists.insert("list".to_owned(), list);
    rule_set
}

fn agree(compiled: &Compiled, rule_set: &RuleSet, packets: &[Packet]) {
    for direction in [Direction::Ingress, Direction::Egress] {
        let has_rules = (rule_set.rules.iter()).any(|rule| rule.direction == direction);
        if !has_rules {
            continue;
        }
        for packet in packets {
            let expected = oracle::first_match(rule_set, direction, packet);
            let found = by_tables(compiled, direction, packet);
            assert_eq!(found.rule, expected, "{direction:?} {packet:?}");
        }
    }
}

#[test]
fn a_changed_image_decides_like_one_made_anew() {
    let (all, changed) = (Cell::new(0), Cell::new(0));
    let cases = (
        rule_set(),
        prop::collection::vec(any::<bool>(), 6),
        prop::collection::vec(block(), 0..4),
        block(),
        prop::collection::vec(packet(), 40),
    );
    let mut runner = TestRunner::new(Config::with_cases(3_000));
    let ran = runner.run(&cases, |(rule_set, within, blocks, more, packets)| {
        let before = with_list(&rule_set, &within, &blocks);
        let mut compiled = compile(&before, &Slots::default()).unwrap();
        let rows = compiled.lists["list"].clone();
        all.set(all.get() + 1);
        let mut image = compiled.image.clone();
        if !change_list(&mut image, &rows, more, Way::In) {
            return Ok(());
        }
        changed.set(changed.get() + 1);
        compiled.image = image;
        let blocks: Vec<Block> = blocks.into_iter().chain([more]).collect();
        agree(&compiled, &with_list(&rule_set, &within, &blocks), &packets);
        prop_assert!(change_list(&mut compiled.image, &rows, more, Way::Out));
        agree(&compiled, &before, &packets);
        Ok(())
    });
    ran.unwrap();
    let (all, changed) = (all.get(), changed.get());
    assert!(changed > all / 20, "{changed} of {all} could be changed");
}
