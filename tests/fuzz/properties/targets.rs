//! What must hold of any input: one property for each target.
//!
//! Written once and run twice: by libFuzzer on inputs it makes up (`tests/fuzz/run`), and by
//! `cargo test --test corpus` on every input in corpus/. A property panics where it is broken;
//! else it says in a word what became of the input, and a seed's file name begins with that word.

pub mod binding;
pub mod chunked;
pub mod head;
pub mod hello;
pub mod http2;
pub mod mask;
pub mod message;
pub mod rewrite;
pub mod routes;
pub mod sse;

mod bindings;
mod pieces;

/// Panics where the input breaks the property, else tells what became of it.
pub type Property = fn(&[u8]) -> &'static str;

/// By the name of the directory in corpus/.
pub const TARGETS: [(&str, Property); 10] = [
    ("binding", binding::check),
    ("chunked", chunked::check),
    ("head", head::check),
    ("hello", hello::check),
    ("http2", http2::check),
    ("mask", mask::check),
    ("message", message::check),
    ("rewrite", rewrite::check),
    ("routes", routes::check),
    ("sse", sse::check),
];
