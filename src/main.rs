//! The aralez program.
fn main() {}
