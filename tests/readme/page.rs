//! The fenced blocks of a page, and what is typed and shown in those of a terminal.

use std::fs;
use std::path::Path;

/// A page of this repository.
pub struct Page {
    pub name: String,
    pub text: String,
}

/// A fenced block: what lies between two lines of three backticks.
pub struct Block<'a> {
    /// The number of its first line.
    pub line: usize,
    /// What stands behind the opening backticks.
    pub language: &'a str,
    /// Why the test does not run it, if the line above the block is `<!-- not run: REASON -->`.
    pub not_run: Option<&'a str>,
    pub lines: Vec<&'a str>,
}

/// One thing that is typed in a `console` block, and the lines that come out.
pub struct Step<'a> {
    pub line: usize,
    pub prompt: Prompt,
    pub typed: String,
    pub shown: Vec<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// `$ `: the shell.
    Shell,
    /// `backends> `: `examples/backends.rs`, which runs in another terminal.
    Backends,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        Self {
            name: name.to_owned(),
            text: fs::read_to_string(path).unwrap(),
        }
    }

    pub fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines().zip(1..);
        let mut above = "";
        while let Some((line, number)) = lines.next() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                let reason = above.strip_prefix("<!-- not run: ");
                blocks.push(Block {
                    line: number + 1,
                    language,
                    not_run: reason.and_then(|reason| reason.strip_suffix(" -->")),
                    lines: lines
                        .by_ref()
                        .map(|(line, _)| line)
                        .take_while(|line| line.trim_start() != "```")
                        .collect(),
                });
            }
            above = line;
        }
        blocks
    }

    /// What is typed in all blocks that are run.
    pub fn steps(&self) -> Vec<Step<'_>> {
        let blocks = self.blocks().into_iter();
        let run = blocks.filter(|block| block.language == "console" && block.not_run.is_none());
        run.flat_map(|block| block.steps()).collect()
    }
}

impl<'a> Block<'a> {
    fn steps(&self) -> Vec<Step<'a>> {
        let mut steps: Vec<Step<'a>> = Vec::new();
        for (text, line) in self.lines.iter().zip(self.line..) {
            let shell = text.strip_prefix("$ ").map(|typed| (Prompt::Shell, typed));
            let backends = text.strip_prefix("backends> ");
            let backends = backends.map(|typed| (Prompt::Backends, typed));
            match (shell.or(backends), steps.last_mut()) {
                (Some((prompt, typed)), _) => steps.push(Step {
                    line,
                    prompt,
                    typed: typed.to_owned(),
                    shown: Vec::new(),
                }),
                (None, Some(step)) => match text.strip_prefix("> ") {
                    // The rest of a command of several lines.
                    Some(more) if step.shown.is_empty() => {
                        step.typed.push('\n');
                        step.typed.push_str(more);
                    }
                    _ => step.shown.push(text),
                },
                (None, None) => panic!("line {line} comes out of nothing: {text}"),
            }
        }
        steps
    }
}
