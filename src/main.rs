//! The command line's entry.

#[global_allocator]
static ALLOCATOR: simpletuner_live::mount::Allocator = simpletuner_live::mount::Allocator;

/// Runs before Rust's runtime, which changes what the caller gave this process.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = simpletuner_live::cli::before_main;

fn main() -> std::process::ExitCode {
    simpletuner_live::cli::main()
}
