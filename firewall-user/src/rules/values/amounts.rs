//! Numbers with or without a suffix that says that they count bytes.

use super::digits;

/// Suffixes of numbers of bytes, with what people write for them, and what they stand for.
const SUFFIXES: [(&str, &[&str], u64); 7] = [
    ("", &["B", "byte", "bytes"], 1),
    ("k", &["K", "kB", "KB"], 1_000),
    ("M", &["m", "MB", "mB"], 1_000_000),
    ("G", &["g", "GB", "gB"], 1_000_000_000),
    ("KiB", &["kiB", "Ki", "ki", "KIB", "kib"], 1 << 10),
    ("MiB", &["miB", "Mi", "mi", "MIB", "mib"], 1 << 20),
    ("GiB", &["giB", "Gi", "gi", "GIB", "gib"], 1 << 30),
];

/// Bits, which links are measured in and limits are not, likewise.
const BITS: [(&str, u64); 4] = [
    ("", 1),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
];

/// A number as people write it, with or without a suffix.
pub(super) struct Amount {
    pub(super) number: u64,
    /// How it is to be written.
    pub(super) plain: String,
    /// What follows it says that it counts bytes or bits.
    pub(super) of_bytes: bool,
}

impl Amount {
    pub(super) fn read(text: &str) -> Option<Self> {
        let suffix_at = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (typed, suffix) = text.split_at(suffix_at);
        let number = digits(typed)?.cast_unsigned();
        let suffix = suffix.trim();
        let known = SUFFIXES
            .iter()
            .find(|(name, words, _)| *name == suffix || words.contains(&suffix));
        if let Some((name, _, factor)) = known {
            return Some(Self {
                number: number.saturating_mul(*factor),
                plain: format!("{typed}{name}"),
                of_bytes: !suffix.is_empty(),
            });
        }
        let word = suffix.to_lowercase();
        let prefix = word.strip_suffix("bits").or(word.strip_suffix("bit"))?;
        let (_, factor) = BITS.iter().find(|(name, _)| *name == prefix)?;
        let number = number.saturating_mul(*factor) / 8;
        Some(Self {
            number,
            plain: number.to_string(),
            of_bytes: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_is_meant_by_them() {
        let of = |text: &str| Amount::read(text).map(|a| (a.number, a.plain, a.of_bytes));
        for (text, number, plain, of_bytes) in [
            ("0", 0, "0", false),
            ("400", 400, "400", false),
            ("10k", 10_000, "10k", true),
            ("10 KB", 10_000, "10k", true),
            ("2 bytes", 2, "2", true),
            ("3GiB", 3 << 30, "3GiB", true),
            ("8kbit", 1000, "1000", true),
            ("7 bits", 0, "0", true),
            ("99999999999G", u64::MAX, "99999999999G", true),
        ] {
            assert_eq!(
                of(text),
                Some((number, plain.to_owned(), of_bytes)),
                "{text}"
            );
        }
        // Whether `Mb` means bits or bytes nobody knows.
        for text in [
            "", "k", "-1", "1.5M", "1Mb", "1T", "1 tbit", "1,000", "²", "1é",
        ] {
            assert!(of(text).is_none(), "{text}");
        }
    }
}
