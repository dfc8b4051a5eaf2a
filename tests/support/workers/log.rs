//! What a worker's log says.

use std::{collections::HashMap, fs, path::Path};

use super::CHECKED;

/// A worker's log, as far as its lines are whole. A place in it is the number of bytes before.
#[derive(Debug)]
pub struct Log(String);

/// One token request of a worker, as its log tells.
#[derive(Debug, Default)]
pub struct Sent {
    /// The name of the store.
    pub company: String,
    /// The refresh token that it presents; `None` for a sign-in.
    pub presented: Option<String>,
    /// The place of the last look at the lease before it.
    pub checked: usize,
    /// The place of the line that tells of its refusal.
    pub refused: Option<usize>,
    /// The refresh token of its reply, if the worker came as far as saving it.
    pub issued: Option<String>,
    /// The place of the line that tells of the end of its save, if there is one, and whether the reply was saved.
    pub settled: Option<(usize, bool)>,
}

impl Log {
    pub fn read(path: &Path) -> Self {
        let mut text = fs::read_to_string(path).unwrap_or_default();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Self(text)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each with its place.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut place = 0;
        self.0.split_inclusive('\n').map(move |line| {
            let this = place;
            place += line.len();
            (this, line.trim_end())
        })
    }

    pub fn outcome(&self) -> &str {
        let line = self.0.lines().rev().find_map(|line| line.strip_prefix("OUTCOME "));
        line.unwrap_or_default()
    }

    /// The lines that name this company.
    pub fn of(&self, name: &str) -> Vec<&str> {
        self.0.lines().filter(|line| line.contains(name)).collect()
    }

    /// All requests for a token, in their order for each company.
    pub fn sent(&self) -> Vec<Sent> {
        let mut companies = HashMap::<&str, Company<'_>>::new();
        for (place, line) in self.lines() {
            let (name, what) = company_and_step(line);
            companies.entry(name).or_insert_with(|| Company::called(name)).step(place, what);
        }
        companies.into_values().flat_map(|company| company.sent).collect()
    }
}

/// Whose the line is, and what it says. A line of a store begins with the store's name, and a line of a flight has it in the
/// span's field `store`. In a log of one company, most lines name none.
fn company_and_step(line: &str) -> (&str, &str) {
    match line.split_once("} ") {
        Some((name, step)) if name.starts_with('{') => (&name[1..], step),
        _ => {
            let of_span = line.split_once("store=\"{").and_then(|(_, rest)| rest.split_once("}\""));
            (of_span.map_or("", |(name, _)| name), line)
        }
    }
}

/// What is known of a company while its lines are read.
struct Company<'a> {
    name: &'a str,
    checked: usize,
    stored: Option<String>,
    sent: Vec<Sent>,
}

impl<'a> Company<'a> {
    fn called(name: &'a str) -> Self {
        Self { name, checked: 0, stored: None, sent: Vec::new() }
    }

    fn step(&mut self, place: usize, line: &str) {
        if line.ends_with(CHECKED) {
            self.checked = place;
        } else if let Some(token) = line.strip_prefix("READ ") {
            self.stored = Some(token.to_owned());
        } else if line.contains(": token request sent ") {
            let presented = self.stored.clone().filter(|_| line.contains("grant=\"refresh_token\""));
            let (company, checked) = (self.name.to_owned(), self.checked);
            self.sent.push(Sent { company, presented, checked, ..Sent::default() });
        } else if let Some(last) = self.sent.last_mut() {
            if line.contains(": token request failed ") {
                last.refused = Some(place);
            } else if let Some(token) = line.strip_prefix("SAVING ") {
                last.issued.get_or_insert(token.to_owned());
            } else if matches!(line, "SAVED" | "SUPERSEDED") {
                last.settled.get_or_insert((place, line == "SAVED"));
            }
        }
    }
}
