//! The files of `examples/deploy`, as those that use them read them.

#![allow(dead_code, unreachable_pub, reason = "each test program needs its own part")]

use std::{collections::HashMap, fs, path::PathBuf};

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "examples/deploy", name].iter().collect()
}

pub fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The documents of a manifest. A text is a text, whether or not it looks like a number.
pub fn manifest(name: &str) -> Vec<Value> {
    let text = read(name);
    let mut events =
        Parser::new_from_str(&text).map(|event| event.unwrap_or_else(|e| panic!("{name}: {e}")).0);
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        if matches!(event, Event::DocumentStart(_)) {
            documents.push(node(&mut events).unwrap());
        }
    }
    documents
}

/// The node that comes next; `None` at the end of the node around it.
fn node<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Option<Value> {
    match events.next().unwrap() {
        Event::Scalar(text, ScalarStyle::Plain, ..) => Some(match &*text {
            "true" => true.into(),
            "false" => false.into(),
            // A mode in octal stays what it is.
            text if text.starts_with('0') => text.into(),
            text => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        }),
        Event::Scalar(text, ..) => Some(text.into()),
        Event::SequenceStart(..) => Some(std::iter::from_fn(|| node(events)).collect()),
        Event::MappingStart(..) => {
            let mut map = Map::new();
            while let Some(key) = node(events) {
                let (key, value) = (key.as_str().unwrap().to_owned(), node(events).unwrap());
                assert!(map.insert(key.clone(), value).is_none(), "{key} is there twice");
            }
            Some(map.into())
        }
        Event::SequenceEnd | Event::MappingEnd => None,
        other => panic!("{other:?}"),
    }
}

/// The settings of a unit of systemd, by name; a name may have several values.
pub fn unit(name: &str) -> HashMap<String, Vec<String>> {
    let mut settings = HashMap::<_, Vec<_>>::new();
    for line in read(name).lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()) {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        settings.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    settings
}

/// The words of the service's command line, the program itself first, as systemd makes them: `state` for `%S`, and `clients` for
/// `$CLIENTS`.
pub fn exec_start(state: &str, clients: &str) -> Vec<String> {
    let [line] = &unit("systemd/concur-auth.service")["ExecStart"][..] else { panic!("one ExecStart=") };
    line.replace("%S", state).replace("$CLIENTS", clients).split_whitespace().map(str::to_owned).collect()
}

/// Texts in a sequence.
pub fn texts(sequence: &Value) -> Vec<String> {
    let sequence = sequence.as_array().into_iter().flatten();
    sequence.map(|text| text.as_str().unwrap().to_owned()).collect()
}
