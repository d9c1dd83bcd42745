//! The command line's entry.

#[global_allocator]
static ALLOCATOR: simpletuner_live::mount::Allocator = simpletuner_live::mount::Allocator;

fn main() -> std::process::ExitCode {
    simpletuner_live::cli::main()
}
