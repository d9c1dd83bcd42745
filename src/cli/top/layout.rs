//! Tables that fit the screen: which columns there is room for, how many lines each table gets. Knows no mount.

use ratatui::buffer::Buffer;
use ratatui::style::Style;
use ratatui::text::Span;

/// A column of a table.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// From how many columns of the screen on it is shown.
    pub(super) from: u16,
    /// The most columns that it takes; the last one takes what is left.
    pub(super) most: u16,
    pub(super) is_number: bool,
}

/// A line of a table.
pub(super) struct Line {
    pub(super) cells: Vec<String>,
    pub(super) style: Style,
}

pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) lines: Vec<Line>,
    /// How many lines are above those that are shown.
    pub(super) skipped: usize,
}

/// How many lines each table gets, of so many, if it needs at least and wants at most so many. As many of the first tables as have
/// what they need share the lines: each gets what it wants, as long as the others have as much.
pub(super) fn share(available: usize, wants: &[(usize, usize)]) -> Vec<usize> {
    let mut given: Vec<usize> = wants.iter().map(|(least, _)| *least).collect();
    while given.iter().sum::<usize>() > available {
        given.pop();
    }
    let mut left = available - given.iter().sum::<usize>();
    while left > 0 {
        let hungry = given.iter_mut().zip(wants);
        let hungry = hungry.filter(|(given, (_, most))| **given < *most);
        let Some((given, _)) = hungry.min_by_key(|(given, _)| **given) else {
            break;
        };
        *given += 1;
        left -= 1;
    }
    given.resize(wants.len(), 0);
    given
}

/// Writes a text into a line; returns where it ends.
pub(super) fn put(buffer: &mut Buffer, x: u16, y: u16, text: &str, style: Style) -> u16 {
    let area = buffer.area;
    if x >= area.width || y >= area.height {
        return x;
    }
    let room = usize::from(area.width - x);
    buffer.set_stringn(x, y, text, room, style).0
}

fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// The text, cut so that it takes at most so many columns.
fn cut(text: &str, most: u16) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&kept) >= most {
            kept.pop();
            break;
        }
    }
    kept.push('…');
    kept
}

impl Table {
    /// How many lines it would take.
    pub(super) fn height(&self) -> usize {
        self.lines.len() + 1
    }

    /// Draws the titles and as many lines as there is room for.
    pub(super) fn draw(&self, buffer: &mut Buffer, y: u16, height: usize, title: Style) {
        let screen = buffer.area.width;
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|column| self.columns[*column].from <= screen)
            .collect();
        let rows = height.saturating_sub(1);
        let lines: Vec<&Line> = self.lines.iter().skip(self.skipped).take(rows).collect();
        let wide = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.cells.get(column));
            let widest = cells.map(|cell| width(cell)).max().unwrap_or(0);
            let column = &self.columns[column];
            widest.max(width(column.title)).min(column.most)
        };
        let widths: Vec<u16> = shown.iter().map(|column| wide(*column)).collect();
        let mut draw = |y: u16, cells: &dyn Fn(usize) -> String, style: Style| {
            let mut x = 0_u16;
            for (place, (&column, &wide)) in shown.iter().zip(&widths).enumerate() {
                let is_last = place + 1 == shown.len();
                let room = match is_last {
                    true => screen.saturating_sub(x),
                    false => wide,
                };
                let text = cut(&cells(column), room);
                let before = match self.columns[column].is_number && !is_last {
                    true => wide.saturating_sub(width(&text)),
                    false => 0,
                };
                put(buffer, x + before, y, &text, style);
                x = x.saturating_add(wide).saturating_add(2);
            }
        };
        draw(y, &|column| self.columns[column].title.to_owned(), title);
        for (line, y) in lines.iter().zip(y + 1..) {
            let cell = |column: usize| line.cells.get(column).cloned().unwrap_or_default();
            draw(y, &cell, line.style);
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;

    use super::*;

    #[test]
    fn a_table_gets_what_it_wants_as_long_as_the_others_have_as_much() {
        let wants = [(2, 3), (2, 2), (2, 50)];
        assert_eq!(share(10, &wants), [3, 2, 5]);
        assert_eq!(share(100, &wants), [3, 2, 50]);
        assert_eq!(share(7, &wants), [3, 2, 2]);
        // Titles alone say nothing.
        assert_eq!(share(5, &wants), [3, 2, 0]);
        assert_eq!(share(1, &wants), [0, 0, 0]);
    }

    #[test]
    fn a_text_is_cut_by_the_columns_that_it_takes() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("字字字字", 6), "字字…");
        assert_eq!(cut("abc", 1), "…");
    }

    #[test]
    fn columns_that_have_no_room_are_left_out_and_numbers_stand_at_the_right() {
        let column = |title, from, is_number| Column {
            title,
            from,
            most: 10,
            is_number,
        };
        let table = Table {
            columns: vec![
                column("NAME", 0, false),
                column("WIDE", 100, false),
                column("READS", 0, true),
                column("FILE", 0, false),
            ],
            lines: vec![Line {
                cells: ["a", "b", "7", "a long name of a file"]
                    .map(str::to_owned)
                    .to_vec(),
                style: Style::default(),
            }],
            skipped: 0,
        };
        let mut buffer = Buffer::empty(Rect::new(0, 0, 24, 2));
        table.draw(&mut buffer, 0, 2, Style::default());
        let wanted = Buffer::with_lines(["NAME  READS  FILE       ", "a         7  a long nam…"]);
        assert_eq!(buffer, wanted);
    }
}
