//! What `redirect` does to a pod's network (layer 3): one nftables table, written and read back over
//! netlink, and what the sidecar asks the kernel about it.
//!
//! [`rules`] says what the table is, [`expression`] and [`message`] how the kernel is told it: both
//! pure. [`kernel`] is the edge that does it, [`probe`] the sidecar's proof that it was done.

pub mod kernel;
pub mod probe;
pub mod rules;

mod expression;
mod message;
mod socket;

#[cfg(test)]
mod message_tests;
