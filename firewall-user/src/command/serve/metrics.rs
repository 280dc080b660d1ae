//! Metrics at one moment, with their values, and how OpenMetrics writes them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Metrics of one name.
#[derive(Debug)]
pub(super) struct Family<'a> {
    /// Without unit, and without what the format adds to a counter's name.
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    rows: Vec<(Labels<'a>, Value)>,
}

/// Labels and their values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Labels<'a>(Vec<(&'static str, Cow<'a, str>)>);

#[derive(Clone, Copy, Debug)]
enum Value {
    Count(u64),
    Seconds(f64),
    Gauge(f64),
    One,
}

impl<'a> Labels<'a> {
    pub(super) fn new(name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        Self::default().with(name, value)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        self.0.push((name, value.into()));
        self
    }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

impl<'a> Family<'a> {
    pub(super) fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::Counter)
    }

    pub(super) fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::Gauge)
    }

    pub(super) fn info(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::Info)
    }

    fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self {
            name,
            help,
            unit: None,
            kind,
            rows: Vec::new(),
        }
    }

    /// The format has the unit at the end of the name.
    pub(super) fn unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    pub(super) fn count(&mut self, labels: Labels<'a>, value: u64) {
        self.rows.push((labels, Value::Count(value)));
    }

    pub(super) fn seconds(&mut self, labels: Labels<'a>, value: Duration) {
        self.rows
            .push((labels, Value::Seconds(value.as_secs_f64())));
    }

    pub(super) fn gauge_of(&mut self, labels: Labels<'a>, value: impl Into<f64>) {
        self.rows.push((labels, Value::Gauge(value.into())));
    }

    pub(super) fn one(&mut self, labels: Labels<'a>) {
        self.rows.push((labels, Value::One));
    }

    /// Writes it, unless there is nothing.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let unit = self.unit.as_ref();
        let mut family = encoder.encode_descriptor(self.name, self.help, unit, self.kind)?;
        for (labels, value) in &self.rows {
            match *value {
                Value::Count(value) => {
                    ConstCounter::new(value).encode(family.encode_family(labels)?)?;
                }
                Value::Seconds(value) => {
                    ConstCounter::new(value).encode(family.encode_family(labels)?)?;
                }
                Value::Gauge(value) => {
                    ConstGauge::new(value).encode(family.encode_family(labels)?)?;
                }
                Value::One => family.encode_info(labels)?,
            }
        }
        Ok(())
    }
}
