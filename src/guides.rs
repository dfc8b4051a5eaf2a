//! Guides: each is read in under three minutes, and its code is compiled.

#[cfg(feature = "simulator")]
#[doc = include_str!("../docs/guides/testing.md")]
pub mod testing {}
