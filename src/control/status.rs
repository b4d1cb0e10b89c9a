//! The status of bindings: what became of each, told where its author looks.
//!
//! ```text
//! index -> [ Board: latest facts ] -> leader: [ reach ] -> conditions -> /status, Events
//! ```

mod board;

pub use board::Board;
