//! What the keys of `top` have chosen.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::reader::Look;
use super::readers::Sort;

/// What the keys have chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) types_filter: bool,
    pub(super) shows_help: bool,
    /// The look that is shown, while paused.
    pub(super) paused: Option<Look>,
    /// How many readers are scrolled away.
    pub(super) scrolled: usize,
}

/// What a key does to the program.
#[derive(PartialEq, Eq)]
pub(super) enum Action {
    None,
    Quit,
    Suspend,
    Redraw,
}

impl Choices {
    /// What a key does. `look` gives what is known now.
    pub(super) fn press(&mut self, key: KeyEvent, look: impl FnOnce() -> Look) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Action::Quit,
            KeyCode::Char('z') if is_control => return Action::Suspend,
            KeyCode::Char('l') if is_control => return Action::Redraw,
            _ if self.types_filter => self.type_filter(key.code, is_control),
            KeyCode::Char('q') => return Action::Quit,
            _ if std::mem::take(&mut self.shows_help) => {}
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.shows_help = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => {
                self.filter.clear();
                self.types_filter = true;
                self.scrolled = 0;
            }
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => {
                self.paused = match self.paused {
                    Some(_) => None,
                    None => Some(look()),
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled = self.scrolled.saturating_add(10),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        Action::None
    }

    fn type_filter(&mut self, key: KeyCode, is_control: bool) {
        match key {
            KeyCode::Enter => self.types_filter = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.types_filter = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char('u') if is_control => self.filter.clear(),
            KeyCode::Char(typed) if !is_control && self.filter.len() < 100 => {
                self.filter.push(typed);
            }
            _ => {}
        }
    }
}
