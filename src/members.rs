//! One JSON object as the text of its members, so that members which this crate does not know survive unchanged.
//!
//! Always: no fault quotes a value or an unknown name. serde's messages do, so only category, line and column are kept.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The size up to which an object inherits members of another: if replies differ in the names of their members, members
/// would pile up until the file is too large to be read.
const MOST_INHERITED: usize = 512 * 1024;

/// The members of one JSON object, by name. Of several members with the same name the last one counts, as in
/// JavaScript.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Members(BTreeMap<String, Zeroizing<String>>);

/// Why a text is not a JSON object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadJson {
    #[error("{what} at line {line}, column {column}")]
    Syntax { what: &'static str, line: usize, column: usize },
    #[error("not UTF-8 text")]
    NotText,
}

/// The name of a member whose value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the member {0} is not {1}")]
pub(crate) struct BadMember(pub(crate) &'static str, pub(crate) &'static str);

impl Members {
    /// Reads an object; a byte order mark before it is tolerated.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, BadJson> {
        let mut members = Self::default();
        members.read(std::str::from_utf8(json).map_err(|_| BadJson::NotText)?)?;
        Ok(members)
    }

    /// Reads a reply up to its first fault, and returns that fault: bytes that are no text or no JSON must not cost the
    /// token before them.
    pub(crate) fn parse_reply(json: &[u8]) -> (Self, Option<BadJson>) {
        let lossy;
        let text = match std::str::from_utf8(json) {
            Ok(text) => text,
            Err(_) => {
                lossy = Zeroizing::new(String::from_utf8_lossy(json).into_owned());
                lossy.as_str()
            }
        };
        let mut members = Self::default();
        let fault = members.read(text).err();
        if fault.is_some() {
            // A number at the end of the text may have been cut short.
            let sure = text.trim_end_matches(|c: char| c.is_ascii_digit() || ".+-eE".contains(c));
            members = Self::default();
            let _ = members.read(sure);
        }
        (members, fault)
    }

    /// Reads the members of an object. After a fault, the members before it are there.
    fn read(&mut self, text: &str) -> Result<(), BadJson> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = serde_json::Deserializer::from_str(text);
        reader.deserialize_map(ObjectVisitor(self)).map_err(|e| fault(&e))?;
        reader.end().map_err(|e| fault(&e))
    }

    /// A member's text, if it is a JSON string; blank ones count as absent.
    pub(crate) fn string(&self, name: &'static str) -> Result<Option<Secret>, BadMember> {
        match self.0.get(name).map(|raw| raw.as_str()) {
            None | Some("null") => Ok(None),
            Some(raw) => {
                let text = Secret::new(decode(raw).ok_or(BadMember(name, "a string"))?);
                Ok((!text.is_blank()).then_some(text))
            }
        }
    }

    /// A member that counts seconds: a JSON number or a string that holds one. Fractions are cut off.
    pub(crate) fn seconds(&self, name: &'static str) -> Result<Option<u64>, BadMember> {
        const WHAT: &str = "a number of seconds";
        let text = match self.0.get(name).map(|raw| raw.as_str()) {
            None | Some("null") => return Ok(None),
            Some(raw) if raw.starts_with('"') => decode(raw).ok_or(BadMember(name, WHAT))?,
            Some(raw) => raw.to_owned(),
        };
        if let Ok(seconds) = text.trim().parse::<u64>() {
            return Ok(Some(seconds));
        }
        match text.trim().parse::<f64>() {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range is checked"
            )]
            Ok(seconds) if (0.0..1e15).contains(&seconds) => Ok(Some(seconds as u64)),
            _ => Err(BadMember(name, WHAT)),
        }
    }

    pub(crate) fn set_string(&mut self, name: &str, value: &str) {
        let raw = serde_json::to_string(value).unwrap_or_default();
        self.0.insert(name.to_owned(), Zeroizing::new(raw));
    }

    pub(crate) fn set_number(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_owned(), Zeroizing::new(value.to_string()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Takes members from `other` that are missing here, except the members named, as far as there is room.
    pub(crate) fn inherit(&mut self, other: &Self, except: &[&str]) {
        let mut size = self.size();
        for (name, raw) in &other.0 {
            let larger = size + size_of_member(name, raw);
            if larger <= MOST_INHERITED && !except.contains(&name.as_str()) && !self.0.contains_key(name) {
                self.0.insert(name.clone(), raw.clone());
                size = larger;
            }
        }
    }

    /// The largest size that its JSON form can have.
    fn size(&self) -> usize {
        self.0.iter().map(|(name, raw)| size_of_member(name, raw)).sum::<usize>() + 8
    }

    /// Pretty-printed JSON: first the members named by `order`, then the others by name.
    pub(crate) fn to_json(&self, order: &[&str]) -> Zeroizing<String> {
        let first = order.iter().filter_map(|name| self.0.get_key_value(*name));
        let rest = self.0.iter().filter(|(name, _)| !order.contains(&name.as_str()));
        // Sized beforehand: a growing string would leave unwiped copies of secrets behind.
        let mut json = Zeroizing::new(String::with_capacity(self.size()));
        json.push('{');
        for (index, (name, raw)) in first.chain(rest).enumerate() {
            json.push_str(if index == 0 { "\n  " } else { ",\n  " });
            json.push_str(&serde_json::to_string(name).unwrap_or_default());
            json.push_str(": ");
            json.push_str(raw);
        }
        json.push_str("\n}\n");
        json
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names come from outside, too.
        f.debug_tuple("Members").field(&self.0.len()).finish()
    }
}

/// Every character of a name may have to be escaped.
fn size_of_member(name: &str, raw: &str) -> usize {
    6 * name.len() + raw.len() + 8
}

fn decode(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

fn fault(e: &serde_json::Error) -> BadJson {
    use serde_json::error::Category;
    let what = match e.classify() {
        Category::Eof => "the JSON text ends too early",
        Category::Data => "not a JSON object",
        Category::Syntax | Category::Io => "not valid JSON",
    };
    BadJson::Syntax { what, line: e.line(), column: e.column() }
}

struct ObjectVisitor<'a>(&'a mut Members);

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Name(name), raw)) = map.next_entry::<Name, &'de RawValue>()? {
            self.0.0.insert(name, Zeroizing::new(raw.get().to_owned()));
        }
        Ok(())
    }
}

/// A member's name. JSON allows halves of surrogate pairs in it, which must not make the other members unreadable.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_bytes<E: de::Error>(self, name: &[u8]) -> Result<Name, E> {
        Ok(Name(String::from_utf8_lossy(name).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_members_survive_unchanged() {
        let json = r#"{"big":123456789012345678901234567890,"deep":{"a":[1, 2.50,null]},"é\n":"\u0041"}"#;
        let read = Members::parse(json.as_bytes()).unwrap();
        let written = read.to_json(&["deep"]);
        assert_eq!(
            written.as_str(),
            "{\n  \"deep\": {\"a\":[1, 2.50,null]},\n  \"big\": 123456789012345678901234567890,\n  \
             \"é\\n\": \"\\u0041\"\n}\n"
        );
        assert_eq!(Members::parse(written.as_bytes()).unwrap(), read);
    }

    #[test]
    fn faults_name_the_place_and_quote_nothing() {
        for (json, fault) in [
            ("{\"a\": 1,\n \"b\": SECRET}", "not valid JSON at line 2, column 7"),
            ("{\"a\": \"SECRET", "the JSON text ends too early at line 1, column 13"),
            ("\"SECRET\"", "not a JSON object at line 1, column 8"),
            ("", "the JSON text ends too early at line 1, column 0"),
            ("{} SECRET", "not valid JSON at line 1, column 4"),
        ] {
            assert_eq!(Members::parse(json.as_bytes()).unwrap_err().to_string(), fault, "{json}");
        }
        assert_eq!(Members::parse(b"{\"a\": \"\xff\"}").unwrap_err(), BadJson::NotText);
    }

    #[test]
    fn of_a_reply_the_members_before_a_fault_are_read() {
        for (json, names) in [
            (&b"{\"a\": \"x\", \"b\": 1"[..], &["a"][..]),
            (b"{\"a\": \"x\", \"b\": \"y", &["a"]),
            (b"{\"a\": \"x\", \"b\": tru", &["a"]),
            (b"{\"a\": \"x\"", &["a"]),
            (b"{\"a\": \"x\", \"b\": 1} 36", &["a", "b"]),
            (b"{\"a\": \"x\"}\0\0", &["a"]),
            (b"{\"a\": \"\xff\", \"b\": \"\0\"}", &["a"]),
            (b"[{\"a\": \"x\"}]", &[]),
            (b"\x1f\x8b\x08", &[]),
        ] {
            let (members, fault) = Members::parse_reply(json);
            assert!(fault.is_some());
            assert_eq!(members.0.keys().collect::<Vec<_>>(), names);
        }
        let (members, fault) = Members::parse_reply(b"{\"\\ud800\": 1, \"a\": \"x\"}");
        assert_eq!(fault, None);
        assert!(members.0.contains_key("a"));
    }

    #[test]
    fn seconds_come_as_numbers_and_as_strings() {
        for (raw, seconds) in [("3600", 3600), ("\"3600\"", 3600), ("3600.9", 3600), ("1.5e3", 1500)] {
            let members = Members::parse(format!("{{\"n\":{raw}}}").as_bytes()).unwrap();
            assert_eq!(members.seconds("n"), Ok(Some(seconds)), "{raw}");
        }
        for raw in ["-1", "1e300", "\"soon\"", "\"\"", "true", "[]", "\"inf\"", "\"NaN\""] {
            let members = Members::parse(format!("{{\"n\":{raw}}}").as_bytes()).unwrap();
            assert!(members.seconds("n").is_err(), "{raw}");
        }
        assert_eq!(Members::parse(b"{\"n\":null}").unwrap().seconds("n"), Ok(None));
    }
}
