//! The broker as the source: what it tells is what is served, and what it does not vouch for is
//! not.

mod babble;
mod reasons;
mod serving;
mod stream;
