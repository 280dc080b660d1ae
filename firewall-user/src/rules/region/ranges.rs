//! Sets of numbers as inclusive ranges, sorted, disjoint and not adjacent: what addresses, services and flag bytes have in common.

use std::borrow::Cow;

use crate::rules::model::AddressSet;

/// What ranges are of.
pub(in crate::rules) trait Number: Copy + Ord {
    /// The largest.
    const MAX: Self;

    /// The one behind it.
    fn next(self) -> Option<Self>;

    /// The one before it; it is not 0.
    fn previous(self) -> Self;
}

impl Number for u32 {
    const MAX: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Self {
        self - 1
    }
}

impl Number for u128 {
    const MAX: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Self {
        self - 1
    }
}

/// How far a region reaches in one dimension: IPv4 addresses, services or flag bytes in `narrow`, IPv6 addresses in `wide`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::rules) struct Extent<'a> {
    pub(in crate::rules) narrow: Cow<'a, [(u32, u32)]>,
    pub(in crate::rules) wide: Cow<'a, [(u128, u128)]>,
}

impl<'a> Extent<'a> {
    /// Every address of both families.
    pub(in crate::rules) fn every_address() -> Self {
        Self {
            narrow: Cow::Borrowed(&[(0, u32::MAX)]),
            wide: Cow::Borrowed(&[(0, u128::MAX)]),
        }
    }

    /// The addresses of `set`; all where there is none.
    pub(in crate::rules) fn addresses(set: Option<&'a AddressSet>) -> Self {
        set.map_or_else(Self::every_address, |set| Self {
            narrow: Cow::Borrowed(&set.v4),
            wide: Cow::Borrowed(&set.v6),
        })
    }

    /// Services or flag bytes.
    pub(in crate::rules) fn narrow(ranges: &'a [(u32, u32)]) -> Self {
        Self {
            narrow: Cow::Borrowed(ranges),
            wide: Cow::Borrowed(&[]),
        }
    }

    pub(in crate::rules) fn is_empty(&self) -> bool {
        self.narrow.is_empty() && self.wide.is_empty()
    }

    /// Whether the two have anything in common.
    pub(in crate::rules) fn meets(&self, other: &Extent<'_>) -> bool {
        meet(&self.narrow, &other.narrow) || meet(&self.wide, &other.wide)
    }

    /// Whether all of `other` is in it.
    pub(in crate::rules) fn covers(&self, other: &Extent<'_>) -> bool {
        cover(&self.narrow, &other.narrow) && cover(&self.wide, &other.wide)
    }

    /// What the two have in common.
    pub(in crate::rules) fn intersection(&self, other: &Extent<'_>) -> Extent<'static> {
        Extent {
            narrow: intersection(&self.narrow, &other.narrow).into(),
            wide: intersection(&self.wide, &other.wide).into(),
        }
    }

    /// All of some extents.
    pub(in crate::rules) fn union(mut extents: Vec<Extent<'static>>) -> Extent<'static> {
        if extents.len() == 1 {
            return extents.remove(0);
        }
        let narrow = extents
            .iter()
            .flat_map(|extent| extent.narrow.iter().copied());
        let wide = extents
            .iter()
            .flat_map(|extent| extent.wide.iter().copied());
        Extent {
            narrow: union(narrow).into(),
            wide: union(wide).into(),
        }
    }

    pub(in crate::rules) fn into_owned(self) -> Extent<'static> {
        Extent {
            narrow: self.narrow.into_owned().into(),
            wide: self.wide.into_owned().into(),
        }
    }
}

/// Whether two sets have anything in common. A few ranges beside a million take as many searches.
fn meet<N: Number>(some: &[(N, N)], others: &[(N, N)]) -> bool {
    let (few, many) = if some.len() < others.len() {
        (some, others)
    } else {
        (others, some)
    };
    few.iter().any(|&(first, last)| {
        let next = many.partition_point(|range| range.1 < first);
        many.get(next).is_some_and(|range| range.0 <= last)
    })
}

/// Whether all of `inner` is in `outer`.
fn cover<N: Number>(outer: &[(N, N)], inner: &[(N, N)]) -> bool {
    inner.iter().all(|&(first, last)| {
        let next = outer.partition_point(|range| range.1 < first);
        outer
            .get(next)
            .is_some_and(|range| range.0 <= first && last <= range.1)
    })
}

/// What two sets have in common. A few ranges beside a million take as many searches.
pub(in crate::rules) fn intersection<N: Number>(some: &[(N, N)], others: &[(N, N)]) -> Vec<(N, N)> {
    /// How many ranges are gone over one by one in the time of a search.
    const SEARCH: usize = 16;
    let (few, many) = if some.len() < others.len() {
        (some, others)
    } else {
        (others, some)
    };
    let searches = few.len() < many.len() / SEARCH;
    let mut common = Vec::new();
    let mut at = 0;
    for &(first, last) in few {
        if searches {
            at += many[at..].partition_point(|range| range.1 < first);
        }
        while let Some(&range) = many.get(at).filter(|range| range.0 <= last) {
            if range.1 >= first {
                common.push((first.max(range.0), last.min(range.1)));
            }
            if range.1 > last {
                break;
            }
            at += 1;
        }
    }
    common
}

/// All of some ranges in any order, as a set.
pub(in crate::rules) fn union<N: Number>(ranges: impl IntoIterator<Item = (N, N)>) -> Vec<(N, N)> {
    let mut all: Vec<(N, N)> = ranges.into_iter().collect();
    all.sort_unstable();
    let mut set: Vec<(N, N)> = Vec::new();
    for (first, last) in all {
        match set.last_mut() {
            Some(before) if before.1.next().is_none_or(|behind| first <= behind) => {
                before.1 = before.1.max(last);
            }
            _ => set.push((first, last)),
        }
    }
    set
}

/// Whether `number` is in a set.
pub(in crate::rules) fn contain<N: Number>(ranges: &[(N, N)], number: N) -> bool {
    cover(ranges, &[(number, number)])
}
