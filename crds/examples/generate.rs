//! Writes the CRDs into `charts/larder-crds/templates`: `cargo run -p larder-crds --example generate`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/larder-crds");
    for (path, text) in larder_crds::chart_files() {
        let path = chart.join(path);
        std::fs::create_dir_all(path.parent().expect("a file in templates/"))?;
        std::fs::write(&path, text)?;
    }
    Ok(())
}
