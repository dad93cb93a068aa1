//! Azure for `lifecycle-core`.
