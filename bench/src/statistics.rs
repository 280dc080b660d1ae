//! Medians, which a disturbed round does not move.

use serde::Serialize;

/// The middle of several rounds and what half of them lie between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Median.
    pub(crate) median: f64,
    /// Lower quartile.
    pub(crate) low: f64,
    /// Upper quartile.
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    ///
    /// Without values.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Self {
            median: at(2),
            low: at(1),
            high: at(3),
        }
    }

    /// A value that was measured once.
    pub(crate) const fn exactly(value: f64) -> Self {
        Self {
            median: value,
            low: value,
            high: value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_round_does_not_move_the_median() {
        let spread = Spread::of(vec![5.0, 1.0, 3.0, 2.0, 1000.0]);
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 5.0));
    }
}
