//! What the library counts, as text for Prometheus.
//!
//! Always: one value for each name with its labels; a duration is a sum and a count.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SetRecorderError, SharedString,
    Unit,
};

use crate::locked;

/// The recorder, from which the endpoint reads.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, Kind>>>);

/// All values of one name, by their labels.
enum Kind {
    Counter(BTreeMap<String, Arc<AtomicU64>>),
    Gauge(BTreeMap<String, Arc<AtomicU64>>),
    Summary(BTreeMap<String, Arc<Mutex<(f64, u64)>>>),
}

struct Summary(Arc<Mutex<(f64, u64)>>);

impl HistogramFn for Summary {
    fn record(&self, value: f64) {
        let mut held = locked(&self.0);
        *held = (held.0 + value, held.1 + 1);
    }
}

impl Counts {
    /// Begins to count, for the whole process.
    pub(crate) fn installed() -> Result<Self, SetRecorderError<Self>> {
        let counts = Self::default();
        metrics::set_global_recorder(counts.clone())?;
        Ok(counts)
    }

    /// All that is counted, in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, kind) in &*locked(&self.0) {
            let _ = match kind {
                Kind::Counter(values) => {
                    let _ = writeln!(text, "# TYPE {name} counter");
                    values.iter().try_for_each(|(labels, value)| {
                        writeln!(text, "{name}{} {}", braced(labels), value.load(Relaxed))
                    })
                }
                Kind::Gauge(values) => {
                    let _ = writeln!(text, "# TYPE {name} gauge");
                    values.iter().try_for_each(|(labels, value)| {
                        writeln!(text, "{name}{} {}", braced(labels), f64::from_bits(value.load(Relaxed)))
                    })
                }
                Kind::Summary(values) => {
                    let _ = writeln!(text, "# TYPE {name} summary");
                    values.iter().try_for_each(|(labels, value)| {
                        let (sum, count) = *locked(value);
                        let labels = braced(labels);
                        writeln!(text, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}")
                    })
                }
            };
        }
        text
    }

    fn kind<T>(&self, key: &Key, new: fn() -> Kind, of: impl FnOnce(&mut Kind, String) -> T) -> T {
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={:?}", label.key(), label.value())).collect();
        let mut names = locked(&self.0);
        of(names.entry(key.name().to_owned()).or_insert_with(new), labels.join(","))
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.kind(
            key,
            || Kind::Counter(BTreeMap::new()),
            |kind, labels| match kind {
                Kind::Counter(values) => Counter::from_arc(Arc::clone(values.entry(labels).or_default())),
                _ => Counter::noop(),
            },
        )
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.kind(
            key,
            || Kind::Gauge(BTreeMap::new()),
            |kind, labels| match kind {
                Kind::Gauge(values) => Gauge::from_arc(Arc::clone(values.entry(labels).or_default())),
                _ => Gauge::noop(),
            },
        )
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.kind(
            key,
            || Kind::Summary(BTreeMap::new()),
            |kind, labels| match kind {
                Kind::Summary(values) => {
                    Histogram::from_arc(Arc::new(Summary(Arc::clone(values.entry(labels).or_default()))))
                }
                _ => Histogram::noop(),
            },
        )
    }
}
