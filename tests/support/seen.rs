//! What an attacker would search for secrets.

use std::{
    error::Error as _,
    fmt::{Debug, Display},
    io,
    sync::{Arc, Mutex},
};

use concur_auth::Error;
use tracing_subscriber::fmt::MakeWriter;

/// Everything that anybody could see.
#[derive(Clone, Default)]
pub struct Seen(pub Arc<Mutex<Vec<u8>>>);

impl Seen {
    pub fn debug(&self, value: &dyn Debug) {
        self.text(&format!("{value:?} {value:#?}"));
    }

    pub fn error(&self, error: &Error) {
        self.debug(error);
        self.text(&error.to_string());
        let mut cause = error.source();
        while let Some(e) = cause {
            self.debug(&e);
            self.text(&(e as &dyn Display).to_string());
            cause = e.source();
        }
    }

    pub fn outcome<T: Debug>(&self, outcome: Result<T, Error>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.debug(&value);
                Some(value)
            }
            Err(e) => {
                self.error(&e);
                None
            }
        }
    }

    pub fn text(&self, text: &str) {
        self.0.lock().unwrap().extend_from_slice(text.as_bytes());
    }
}

impl io::Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Seen {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
