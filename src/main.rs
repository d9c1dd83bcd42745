//! The command line's entry.

fn main() -> std::process::ExitCode {
    simpletuner_live::cli::main()
}
