//! Builds the eBPF program and puts its object where the crate embeds it.

fn main() -> anyhow::Result<()> {
    let features: &[&str] = match std::env::var_os("CARGO_FEATURE_DIAGNOSTICS") {
        Some(_) => &["diagnostics"],
        None => &[],
    };
    let sources = ["firewall-ebpf", "firewall-common"];
    build_ebpf::build("firewall-ebpf", features, &sources)
}
