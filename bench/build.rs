//! Builds the measuring programs and puts their object where the crate embeds it.

fn main() -> anyhow::Result<()> {
    build_ebpf::build("firewall-bench-ebpf", &[], &["bench/ebpf"])
}
