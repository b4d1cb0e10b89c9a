//! Postern: the sidecar that holds the credentials an AI agent needs for its MCP servers.
#![forbid(unsafe_code)]
pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod credential;
pub mod nft;
pub mod proxy;
pub mod runtime;
pub mod telemetry;
pub mod tls;
