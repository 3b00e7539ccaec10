//! A bar of bytes on the terminal; nothing where there is none.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that ends at `total` bytes.
pub fn bar(total: u64) -> ProgressBar {
    let template = "{bar:40} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12}";
    let style = ProgressStyle::with_template(template).expect("a template of indicatif's own keys");
    ProgressBar::new(total).with_style(style)
}
