//! The quantkit binary: everything happens in [`quantkit::cli`].

fn main() -> std::process::ExitCode {
    quantkit::cli::main()
}
