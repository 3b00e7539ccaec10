//! Turns the vendored protocols in `proto/` into messages and services; needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/csi.proto", "proto/pluginregistration.proto"], ["proto"])?;
    // Their comments are prose with indented examples, which rustdoc would take for tests.
    tonic_prost_build::configure().disable_comments(["."]).compile_fds(descriptors)?;
    Ok(())
}
