//! Builds the eBPF program and puts its object where the crate embeds it.

fn main() -> anyhow::Result<()> {
    build_ebpf::build("firewall-ebpf", &["firewall-ebpf", "firewall-common"])
}
