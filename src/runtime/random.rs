//! Randomness that decides when, never what.

/// A number from 0 up to, but not, 1. Where the system has no randomness it is always 0.5.
pub fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
