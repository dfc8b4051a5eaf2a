//! The PostgreSQL store.

#[cfg(test)]
mod lease_model;
