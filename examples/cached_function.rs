//! A function whose results are kept for a minute, as SimpleTuner's `@cached` does: the second call does no work.

use std::fs;

simpletuner_live::cached! {
    ttl = 60, key_prefix = "example";
    /// How many lines a file has. An error is not kept.
    pub fn lines_of(path: &str) -> Result<usize, String> {
        println!("counting the lines of {path}");
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        Ok(text.lines().count())
    }
}

fn main() -> Result<(), String> {
    println!("{} lines", lines_of("/etc/passwd")?);
    println!("{} lines, without counting", lines_of("/etc/passwd")?);
    lines_of::cache().invalidate_prefix("example:lines_of:/etc/");
    println!("{} lines, counted again", lines_of("/etc/passwd")?);
    println!("{:?}", lines_of::cache().stats());
    Ok(())
}
