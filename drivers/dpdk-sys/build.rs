//! Finds the system's libdpdk, compiles the shim and makes bindings. Nothing of that is committed.

fn main() {
    #[cfg(feature = "system")]
    system::bind();
}

#[cfg(feature = "system")]
mod system {
    use std::env;
    use std::path::PathBuf;

    /// What DPDK promises to be one ABI: the long-term release 22.11 and its fixes.
    const VERSIONS: std::ops::Range<&str> = "22.11".."22.12";

    /// Everything that the driver calls: functions by name, with the types that they need.
    const FUNCTIONS: [&str; 33] = [
        "rte_eal_init",
        "rte_eal_cleanup",
        "rte_eal_get_runtime_dir",
        "rte_eal_alarm_set",
        "rte_dev_devargs",
        "rte_eal_hotplug_add",
        "rte_eal_hotplug_remove",
        "rte_openlog_stream",
        "rte_log_set_level_pattern",
        "rte_version",
        "rte_thread_register",
        "rte_thread_unregister",
        "rte_pktmbuf_pool_create",
        "rte_pktmbuf_free_bulk",
        "rte_eth_tx_done_cleanup",
        "rte_mempool_free",
        "rte_mempool_avail_count",
        "rte_eth_find_next_owned_by",
        "rte_eth_dev_get_port_by_name",
        "rte_eth_dev_get_name_by_port",
        "rte_eth_dev_info_get",
        "rte_eth_dev_configure",
        "rte_eth_rx_queue_setup",
        "rte_eth_tx_queue_setup",
        "rte_eth_dev_start",
        "rte_eth_dev_stop",
        "rte_eth_dev_close",
        "rte_eth_dev_socket_id",
        "rte_eth_link_get_nowait",
        "rte_eth_macaddr_get",
        "rte_eth_dev_default_mac_addr_set",
        "rte_eth_promiscuous_enable",
        "rte_eth_stats_get",
    ];

    pub(crate) fn bind() {
        println!("cargo::rerun-if-changed=src/shim.c");
        println!("cargo::rerun-if-changed=src/shim.h");
        let found = pkg_config::Config::new()
            .range_version(VERSIONS)
            .cargo_metadata(false)
            .probe("libdpdk")
            .unwrap_or_else(|error| {
                eprintln!(
                    "DPDK {} to below {} is needed: install libdpdk-dev and libclang-dev \
                     (ci/setup does), or build without the feature dpdk. {error}",
                    VERSIONS.start, VERSIONS.end
                );
                std::process::exit(1)
            });
        let flags = pkg_config_flags();
        compile_shim(&flags);
        for path in &found.link_paths {
            println!("cargo::rustc-link-search=native={}", path.display());
        }
        // The drivers of devices are loaded by the EAL at run time.
        for library in ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool"] {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
        write_bindings(&flags);
    }

    /// What a C compiler is to be told. The crate `pkg-config` drops flags such as `-include`.
    fn pkg_config_flags() -> Vec<String> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = std::process::Command::new(program)
            .args(["--cflags", "libdpdk"])
            .output()
            .expect("pkg-config was just asked for libdpdk");
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }

    fn compile_shim(flags: &[String]) {
        let mut build = cc::Build::new();
        build.file("src/shim.c").opt_level(3).warnings(true);
        for flag in flags {
            build.flag(flag);
        }
        build.compile("dmrpc_dpdk_shim");
    }

    fn write_bindings(flags: &[String]) {
        let mut builder = bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(flags)
            .allowlist_function("shim_.*")
            .allowlist_type("shim_.*")
            .allowlist_var("RTE_ETH_(TX|RX)_OFFLOAD_(IPV4_CKSUM|MULTI_SEGS|MBUF_FAST_FREE)")
            .allowlist_var("RTE_LOG_DEBUG")
            .opaque_type("rte_mbuf")
            .opaque_type("rte_mempool")
            .opaque_type("_IO_FILE")
            .layout_tests(false)
            .generate_comments(false)
            .derive_default(true)
            .use_core();
        for function in FUNCTIONS {
            builder = builder.allowlist_function(format!("^{function}$"));
        }
        let bindings = builder.generate().expect("the headers of a DPDK that was found");
        let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
        bindings.write_to_file(out.join("bindings.rs")).expect("the output folder is writable");
    }
}
