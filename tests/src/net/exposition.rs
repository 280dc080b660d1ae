//! What `firewall serve` says: asked over HTTP, and read by the letter of OpenMetrics 1.0.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use anyhow::{Context as _, Result, bail, ensure};

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its code.
    pub status: u16,
    /// Headers as they came.
    pub headers: String,
    /// What came behind them.
    pub body: String,
}

/// Asks for `path` over a connection, and reads the answer to its end.
///
/// # Errors
///
/// The connection breaks, or it is no HTTP.
pub fn get<S: Read + Write>(mut stream: S, path: &str) -> Result<Answer> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: firewall\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (headers, body) = text.split_once("\r\n\r\n").context("no end of headers")?;
    let status = headers.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer {
        status,
        headers: headers.to_owned(),
        body: body.to_owned(),
    })
}

/// Samples by name and labels, the labels in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    samples: BTreeMap<Series, f64>,
    /// Names of counters' samples.
    counters: BTreeSet<String>,
}

/// A name with labels.
type Series = (String, BTreeMap<String, String>);

/// What is said of a family before its samples.
#[derive(Debug, Default)]
struct Head {
    name: String,
    kind: Option<String>,
    unit: Option<String>,
    has_help: bool,
}

impl Exposition {
    /// Reads a text.
    ///
    /// # Errors
    ///
    /// It breaks a rule of OpenMetrics, the line is told.
    pub fn read(text: &str) -> Result<Self> {
        ensure!(text.ends_with("# EOF\n"), "it does not end with # EOF");
        let mut exposition = Self::default();
        let mut head = Head::default();
        let mut families = BTreeSet::new();
        let body = &text[..text.len() - "# EOF\n".len()];
        for line in body.lines() {
            exposition
                .line(line, &mut head, &mut families)
                .with_context(|| format!("`{line}`"))?;
        }
        Ok(exposition)
    }

    fn line(&mut self, line: &str, head: &mut Head, families: &mut BTreeSet<String>) -> Result<()> {
        let Some(told) = line.strip_prefix("# ") else {
            return self.sample(line, head);
        };
        let mut words = told.splitn(3, ' ');
        let (keyword, name) = (words.next(), words.next().context("no name")?);
        let rest = words.next().context("nothing is told")?;
        if head.name != name {
            ensure!(families.insert(name.to_owned()), "its family was before");
            *head = Head {
                name: name.to_owned(),
                ..Head::default()
            };
        }
        match keyword {
            Some("HELP") => {
                ensure!(!std::mem::replace(&mut head.has_help, true), "twice");
            }
            Some("TYPE") => {
                ensure!(["counter", "gauge", "info"].contains(&rest), "type {rest}");
                ensure!(head.kind.replace(rest.to_owned()).is_none(), "twice");
            }
            Some("UNIT") => {
                ensure!(name.ends_with(&format!("_{rest}")), "the unit is no suffix");
                ensure!(head.unit.replace(rest.to_owned()).is_none(), "twice");
            }
            _ => bail!("an unknown keyword"),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str, head: &Head) -> Result<()> {
        let (name, rest) =
            line.split_at(line.find(['{', ' ']).context("neither labels nor value")?);
        let is_name = |name: &str| {
            let mut letters = name.chars();
            letters
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        ensure!(is_name(name), "the name");
        let suffix = match head.kind.as_deref().context("a sample without type")? {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        ensure!(
            name == format!("{}{suffix}", head.name),
            "not of the family {}",
            head.name
        );
        ensure!(head.has_help, "a family without help");
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        let value: f64 = rest.strip_prefix(' ').context("no space")?.parse()?;
        ensure!(value >= 0.0 && value.is_finite(), "the value");
        let count = labels.len();
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        ensure!(
            labels.len() == count && labels.keys().all(|name| is_name(name)),
            "labels"
        );
        if suffix == "_total" {
            self.counters.insert(name.to_owned());
        }
        let series = (name.to_owned(), labels);
        ensure!(
            self.samples.insert(series, value).is_none(),
            "a second sample"
        );
        Ok(())
    }

    /// The value of a series.
    ///
    /// # Errors
    ///
    /// There is no such series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        self.find(name, labels)
            .with_context(|| format!("no {name} with {labels:?}"))
    }

    /// The value of a series, if there is one.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.samples
            .get(&(name.to_owned(), labels.collect()))
            .copied()
    }

    /// The sum over all series of that name which have these labels among theirs.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.samples.iter();
        let of_these = samples.filter(|((known, all), _)| {
            known == name
                && labels
                    .iter()
                    .all(|(name, value)| all.get(*name).is_some_and(|known| known == value))
        });
        of_these.map(|(_, value)| value).sum()
    }

    /// Names of all series.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|(name, _)| name.as_str()).collect()
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The counters that were larger `before`, or are gone where `gone` does not allow it.
    pub fn backwards(&self, before: &Self, gone: impl Fn(&str) -> bool) -> Vec<String> {
        let counters = before.samples.iter();
        let counters = counters.filter(|((name, _), _)| before.counters.contains(name));
        let fell = counters.filter(|(series, value)| match self.samples.get(series) {
            Some(now) => now < value,
            None => !gone(&series.0),
        });
        fell.map(|(series, value)| format!("{series:?}: {value} -> {:?}", self.samples.get(series)))
            .collect()
    }
}

/// The labels before the closing brace, and what is behind it.
fn labels(mut rest: &str) -> Result<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        let (name, value) = rest.split_once("=\"").context("no value of a label")?;
        let mut text = String::new();
        let mut letters = value.char_indices();
        let end = loop {
            match letters.next().context("a label without end")? {
                (at, '"') => break at,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, letter @ ('"' | '\\'))) => text.push(letter),
                    _ => bail!("an escape that is none"),
                },
                (_, letter) => text.push(letter),
            }
        };
        labels.push((name.to_owned(), text));
        let behind = &value[end + 1..];
        if let Some(behind) = behind.strip_prefix('}') {
            return Ok((labels, behind));
        }
        rest = behind.strip_prefix(',').context("no comma")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_bytes What.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
        a_bytes_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 7\na_bytes_total{x=\"2\",y=\"\"} 1e3\n\
        # HELP b What.\n# TYPE b gauge\nb 0.5\n# EOF\n";

    #[test]
    fn what_is_right_is_read() {
        let read = Exposition::read(GOOD).unwrap();
        let labels = [("x", "1"), ("y", "q\"\\\n")];
        assert_eq!(read.value("a_bytes_total", &labels).unwrap(), 7.0);
        assert_eq!(read.sum("a_bytes_total", &[]), 1007.0);
        assert_eq!(read.find("b", &[]), Some(0.5));
        assert_eq!(read.len(), 3);
        let less = Exposition::read(&GOOD.replace("} 7", "} 6")).unwrap();
        assert_eq!(less.backwards(&read, |_| false).len(), 1);
        assert!(read.backwards(&less, |_| false).is_empty());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (right, wrong) in [
            ("# EOF\n", ""),
            ("# UNIT a_bytes bytes", "# UNIT a_bytes seconds"),
            ("a_bytes_total{x=\"2\"", "a_bytes{x=\"2\""),
            ("# TYPE b gauge\n", ""),
            ("# HELP b What.\n", ""),
            ("x=\"2\",y=\"\"", "x=\"1\",y=\"q\\\"\\\\\\n\""),
            ("x=\"2\",y", "x=\"2\",x"),
            ("b 0.5", "b -0.5"),
            ("b 0.5", "b NaN"),
            ("b 0.5", "c 0.5"),
            ("\\n", "\\t"),
            ("b 0.5\n", "b 0.5\n# TYPE a_bytes counter\n"),
        ] {
            let text = GOOD.replacen(right, wrong, 1);
            assert!(Exposition::read(&text).is_err(), "{text}");
        }
    }
}
