//! The groups of a rule file, resolved into sets of ranges, and the address lists that they name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use toml::Spanned;

use super::addresses::{AddressError, Block, SetBuilder, block, looks_like_address, parse_block};
use super::diagnostic::{Collector, Diagnostic, Source};
use super::lists;
use super::model::{AddressSet, NamedList, SetId};
use super::names::closest;
use super::shown::quoted;
use super::typed::{Members, RawGroup, Texts};

/// Bad lines of one address list that are shown; the rest of them is counted.
pub const MAX_LIST_ERRORS: usize = 20;

/// Group names among which one that was probably meant is sought; each costs about a microsecond an error.
const MAX_CANDIDATES: usize = 1000;

/// Ranges that all groups and rules may expand to together. Groups of groups can multiply a small file without bound;
/// this many take 256 MB as IPv4 and 1 GB as IPv6, far above what the kernel's tables hold.
pub const MAX_EXPANDED_RANGES: usize = 1 << 25;

/// Reads an address list: one address or CIDR a line, `#` comments, blank lines.
/// Says whether all of it was good.
pub(super) fn parse_list(list: &Source, into: &mut SetBuilder, collector: &mut Collector) -> bool {
    let bytes = list.bytes();
    let bytes_from = |at: usize| bytes.get(at).copied();
    let mut at = if bytes.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    let mut bad_lines = 0;
    while at < bytes.len() {
        // The usual line: a block from its first byte to its newline.
        if let Some((block, length)) = block(&bytes[at..])
            && matches!(bytes_from(at + length), None | Some(b'\n'))
        {
            into.push(block);
            at += length + 1;
            continue;
        }
        let end = bytes[at..]
            .iter()
            .position(|&b| b == b'\n')
            .map_or(bytes.len(), |n| at + n);
        let line = &bytes[at..end];
        let uncommented = line.split(|&b| b == b'#').next().unwrap_or_default();
        let entry = uncommented.trim_ascii();
        if !entry.is_empty() {
            match parse_block(entry) {
                Ok(block) => into.push(block),
                Err(error) => {
                    bad_lines += 1;
                    if bad_lines <= MAX_LIST_ERRORS {
                        let start = at + (uncommented.len() - uncommented.trim_ascii_start().len());
                        let is_name = !looks_like_address(&String::from_utf8_lossy(entry));
                        collector.error(|| {
                            list_error(list, start..start + entry.len(), &error, is_name)
                        });
                    }
                }
            }
        }
        at = end + 1;
    }
    if bad_lines > MAX_LIST_ERRORS {
        let more = format!(
            "{} more lines of this list are no addresses",
            bad_lines - MAX_LIST_ERRORS
        );
        collector.error(|| Diagnostic::error(more).in_file(list.name()));
    }
    bad_lines == 0
}

fn list_error(
    list: &Source,
    span: Range<usize>,
    error: &AddressError,
    is_name: bool,
) -> Diagnostic {
    let help = if is_name {
        "a list file holds addresses and CIDRs, one a line; groups and host names cannot stand in it"
    } else {
        error.help()
    };
    Diagnostic::error(error.to_string())
        .help(help)
        .at(list, span, "")
}

/// The groups of a file, resolved, and the sets that its rules name.
pub(super) struct Groups<'s> {
    source: &'s Source,
    index: BTreeMap<String, usize>,
    sets: Vec<AddressSet>,
    /// Groups that had errors: what they hold is not known, so nothing is said about it.
    broken: Vec<bool>,
    /// Ranges expanded so far, of [`MAX_EXPANDED_RANGES`].
    expanded: usize,
    by_entries: HashMap<Vec<Entry>, SetId>,
    /// Sets that may be equal, because their [`digest`] is.
    by_digest: HashMap<u64, Vec<SetId>>,
    named: Vec<AddressSet>,
    /// The address lists that each group is made of, and each named set.
    lists_of: Vec<BTreeSet<String>>,
    lists_of_named: Vec<BTreeSet<String>>,
    lists: BTreeMap<String, NamedList>,
}

/// One thing that a group, `never-ban`, or a rule's `from` or `to` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Entry {
    Block(Block),
    Group(usize),
}

impl<'s> Groups<'s> {
    /// Resolves the groups of a file, with the lists that they name.
    pub(super) fn resolve(
        raw: &[RawGroup],
        source: &'s Source,
        lists: &mut lists::Reader<'_>,
        collector: &mut Collector,
    ) -> Self {
        let mut groups = Self {
            source,
            index: raw
                .iter()
                .enumerate()
                .map(|(n, g)| (g.name.get_ref().clone(), n))
                .collect(),
            sets: vec![AddressSet::default(); raw.len()],
            broken: vec![false; raw.len()],
            expanded: 0,
            by_entries: HashMap::new(),
            by_digest: HashMap::new(),
            named: Vec::new(),
            lists_of: vec![BTreeSet::new(); raw.len()],
            lists_of_named: Vec::new(),
            lists: BTreeMap::new(),
        };
        let mut builders: Vec<SetBuilder> = Vec::with_capacity(raw.len());
        let mut members: Vec<Vec<(usize, Range<usize>)>> = Vec::with_capacity(raw.len());
        for (n, group) in raw.iter().enumerate() {
            let mut builder = SetBuilder::default();
            let mut children = Vec::new();
            match &group.members {
                Members::List(entries) => {
                    for entry in entries {
                        match entry
                            .as_ref()
                            .map(|text| (groups.entry(text, collector), text.span()))
                        {
                            Some((Some(Entry::Block(block)), _)) => builder.push(block),
                            Some((Some(Entry::Group(child)), span)) => children.push((child, span)),
                            Some((None, _)) | None => groups.broken[n] = true,
                        }
                    }
                }
                Members::File(path) => {
                    let list = groups.lists.entry(path.get_ref().clone()).or_default();
                    list.groups.insert(group.name.get_ref().clone());
                    groups.lists_of[n].insert(path.get_ref().clone());
                    match lists.list(path, source, collector) {
                        Some(list) => {
                            groups.broken[n] = !parse_list(&list, &mut builder, collector);
                        }
                        None => groups.broken[n] = true,
                    }
                }
                Members::Broken => groups.broken[n] = true,
            }
            children.sort_by_key(|member| member.0);
            children.dedup_by_key(|member| member.0);
            builders.push(builder);
            members.push(children);
        }
        for n in groups.children_first(raw, &mut members, collector) {
            let mut builder = std::mem::take(&mut builders[n]);
            for &(child, _) in &members[n] {
                groups.broken[n] |= groups.broken[child];
                groups.add(child, &mut builder, raw[n].name.span(), collector);
                let lists = groups.lists_of[child].clone();
                groups.lists_of[n].extend(lists);
            }
            for list in &groups.lists_of[n] {
                let list = groups.lists.entry(list.clone()).or_default();
                list.within.insert(raw[n].name.get_ref().clone());
            }
            groups.sets[n] = builder.finish();
        }
        groups
    }

    /// The groups in an order in which each comes after those it names. A cycle is an error; it is cut open, so that the
    /// rest can go on. Not recursive, because groups may nest as deep as the file is long.
    fn children_first(
        &mut self,
        raw: &[RawGroup],
        members: &mut [Vec<(usize, Range<usize>)>],
        collector: &mut Collector,
    ) -> Vec<usize> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            Unseen,
            OnPath,
            Done,
        }
        let mut order = Vec::with_capacity(raw.len());
        let mut states = vec![State::Unseen; raw.len()];
        for root in 0..raw.len() {
            // The path from the root, each group with the number of its next member to look at.
            let mut path: Vec<(usize, usize)> = Vec::new();
            if states[root] == State::Unseen {
                states[root] = State::OnPath;
                path.push((root, 0));
            }
            while let Some((group, next)) = path.last_mut() {
                let group = *group;
                let Some((child, span)) = members[group].get(*next).cloned() else {
                    states[group] = State::Done;
                    order.push(group);
                    path.pop();
                    continue;
                };
                match states[child] {
                    State::Done => *next += 1,
                    State::Unseen => {
                        *next += 1;
                        states[child] = State::OnPath;
                        path.push((child, 0));
                    }
                    State::OnPath => {
                        members[group].swap_remove(*next);
                        self.broken[group] = true;
                        collector.error(|| {
                            let start = path.iter().position(|step| step.0 == child).unwrap_or(0);
                            let cycle: Vec<usize> =
                                path[start..].iter().map(|step| step.0).collect();
                            self.cycle_error(raw, &cycle, span)
                        });
                    }
                }
            }
        }
        order
    }

    fn cycle_error(&self, raw: &[RawGroup], cycle: &[usize], span: Range<usize>) -> Diagnostic {
        /// Groups of a cycle that are written out; the path only has to be recognised.
        const MAX_SHOWN: usize = 10;
        let name = |n: usize| quoted(raw[n].name.get_ref());
        let mut path: Vec<String> = cycle.iter().take(MAX_SHOWN).map(|&n| name(n)).collect();
        if cycle.len() > MAX_SHOWN {
            path.push("...".to_owned());
        }
        path.push(name(cycle[0]));
        let message = format!(
            "group {} contains itself: {}",
            name(cycle[0]),
            path.join(" -> ")
        );
        let mut error = Diagnostic::error(message)
            .help("take one of these groups out of the other")
            .at(self.source, span, "closes the circle");
        if cycle.len() > 1 {
            error = error.also_at(
                self.source,
                raw[cycle[0]].name.span(),
                "which it began from",
            );
        }
        error
    }

    /// Reads one entry of a group, `never-ban`, `from` or `to`.
    fn entry(&self, text: &Spanned<String>, collector: &mut Collector) -> Option<Entry> {
        if looks_like_address(text.get_ref()) {
            return match parse_block(text.get_ref().as_bytes()) {
                Ok(block) => Some(Entry::Block(block)),
                Err(error) => {
                    collector.error(|| {
                        Diagnostic::error(error.to_string()).help(error.help()).at(
                            self.source,
                            text.span(),
                            "",
                        )
                    });
                    None
                }
            };
        }
        let group = self.index.get(text.get_ref()).map(|&n| Entry::Group(n));
        if group.is_none() {
            collector.error(|| self.unknown_group(text));
        }
        group
    }

    fn unknown_group(&self, text: &Spanned<String>) -> Diagnostic {
        let name = text.get_ref().as_str();
        let names: Vec<&str> = self
            .index
            .keys()
            .take(MAX_CANDIDATES)
            .map(String::as_str)
            .collect();
        let help = if matches!(name, "any" | "all" | "*") {
            "leave the key out for any address, or write 0.0.0.0/0 and ::/0".to_owned()
        } else if let Some(near) = closest(name, names.iter().copied()) {
            format!("did you mean {}?", quoted(near))
        } else if name.contains('.') {
            "host names are not looked up; write their addresses, or a group of them".to_owned()
        } else if names.is_empty() {
            format!(
                "define it: [groups] with a line such as {} = [\"192.0.2.0/24\"]",
                quoted_key(name)
            )
        } else {
            let shown: Vec<String> = names.iter().take(10).map(|n| quoted(n)).collect();
            format!(
                "define it under [groups]; the groups are {}",
                shown.join(", ")
            )
        };
        let message = format!("there is no group called {}", quoted(name));
        Diagnostic::error(message)
            .help(help)
            .at(self.source, text.span(), "")
            .of_absence()
    }

    /// Adds a resolved group to a set in the making, within [`MAX_EXPANDED_RANGES`].
    fn add(
        &mut self,
        group: usize,
        builder: &mut SetBuilder,
        place: Range<usize>,
        collector: &mut Collector,
    ) {
        let set = &self.sets[group];
        let before = self.expanded;
        self.expanded += set.v4.len() + set.v6.len();
        if self.expanded <= MAX_EXPANDED_RANGES {
            builder.add_set(set);
        } else if before <= MAX_EXPANDED_RANGES {
            let message =
                format!("the groups of this file expand to more than {MAX_EXPANDED_RANGES} ranges");
            collector.error(|| {
                Diagnostic::error(message)
                    .help("name large groups in one place, instead of repeating them inside other groups and lists")
                    .at(self.source, place, "the limit is passed here")
            });
        }
    }

    /// What a list names, sorted; `None` if it had errors.
    fn entries(&self, list: &Texts, collector: &mut Collector) -> Option<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::with_capacity(list.get_ref().len());
        let mut broken = false;
        for text in list.get_ref() {
            match text.as_ref().and_then(|text| self.entry(text, collector)) {
                Some(Entry::Group(n)) if self.broken[n] => broken = true,
                Some(entry) => entries.push(entry),
                None => broken = true,
            }
        }
        entries.sort_unstable();
        entries.dedup();
        (!broken).then_some(entries)
    }

    /// The set that entries make, which stand at `place`.
    fn joined(
        &mut self,
        entries: &[Entry],
        place: Range<usize>,
        collector: &mut Collector,
    ) -> AddressSet {
        let mut builder = SetBuilder::default();
        for &entry in entries {
            match entry {
                Entry::Block(block) => builder.push(block),
                Entry::Group(n) => self.add(n, &mut builder, place.clone(), collector),
            }
        }
        builder.finish()
    }

    /// The addresses that a list names which is no rule's; `None` if it had errors.
    pub(super) fn addresses_of(
        &mut self,
        list: &Texts,
        collector: &mut Collector,
    ) -> Option<AddressSet> {
        let entries = self.entries(list, collector)?;
        for list in self.lists_in(&entries) {
            self.lists.entry(list).or_default().is_entangled = true;
        }
        Some(self.joined(&entries, list.span(), collector))
    }

    /// The set that a rule's `from` or `to` names; `None` if that had errors. Equal sets get the same id.
    pub(super) fn set_of(&mut self, list: &Texts, collector: &mut Collector) -> Option<SetId> {
        let entries = self.entries(list, collector)?;
        if let Some(&id) = self.by_entries.get(&entries) {
            return Some(id);
        }
        let set = self.joined(&entries, list.span(), collector);
        let lists = self.lists_in(&entries);
        let same_digest = self.by_digest.entry(digest(&set)).or_default();
        let id = match same_digest.iter().find(|id| self.named[id.0] == set) {
            Some(&id) => {
                for list in lists.symmetric_difference(&self.lists_of_named[id.0]) {
                    let list = self.lists.entry(list.clone()).or_default();
                    list.is_entangled = true;
                }
                id
            }
            None => {
                let id = SetId(self.named.len());
                self.named.push(set);
                same_digest.push(id);
                for list in &lists {
                    let list = self.lists.entry(list.clone()).or_default();
                    list.sets.insert(id);
                }
                self.lists_of_named.push(lists);
                id
            }
        };
        self.by_entries.insert(entries, id);
        Some(id)
    }

    /// The address lists that entries are made of.
    fn lists_in(&self, entries: &[Entry]) -> BTreeSet<String> {
        let groups = entries.iter().filter_map(|entry| match entry {
            Entry::Group(n) => Some(*n),
            Entry::Block(_) => None,
        });
        groups
            .flat_map(|n| self.lists_of[n].iter().cloned())
            .collect()
    }

    /// A set that [`Self::set_of`] named.
    pub(super) fn set(&self, id: SetId) -> &AddressSet {
        &self.named[id.0]
    }

    /// The sets that rules name, in the order of their ids, every group by name, and the address lists that they are made of.
    pub(super) fn finish(self) -> Resolved {
        let mut sets: Vec<Option<AddressSet>> = self.sets.into_iter().map(Some).collect();
        let groups = self
            .index
            .into_iter()
            .filter_map(|(name, n)| Some((name, sets[n].take()?)))
            .collect();
        Resolved {
            sets: self.named,
            groups,
            lists: self.lists,
        }
    }
}

/// What has been resolved, as [`super::model::RuleSet`] has it.
pub(super) struct Resolved {
    pub(super) sets: Vec<AddressSet>,
    pub(super) groups: BTreeMap<String, AddressSet>,
    pub(super) lists: BTreeMap<String, NamedList>,
}

/// A hash of a set's size and of some of its ranges: hashing a million would take longer than the comparison it saves.
fn digest(set: &AddressSet) -> u64 {
    /// Ranges of each family that are looked at, spread over the set.
    const SAMPLES: usize = 64;
    let mut hasher = DefaultHasher::new();
    (set.v4.len(), set.v6.len()).hash(&mut hasher);
    set.v4
        .iter()
        .step_by(set.v4.len() / SAMPLES + 1)
        .for_each(|range| range.hash(&mut hasher));
    set.v6
        .iter()
        .step_by(set.v6.len() / SAMPLES + 1)
        .for_each(|range| range.hash(&mut hasher));
    hasher.finish()
}

/// `name` as a TOML key.
fn quoted_key(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
