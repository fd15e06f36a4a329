//! Tables on a terminal: columns as wide as what is in them. Where the terminal is narrower, flexible columns are cut;
//! where it is too narrow even for that, optional ones are left out.
//!
//! Cells are printable already: text of peers and stores is escaped before it comes here.

use super::terminal::{fit, width};

/// Spaces between two columns.
const GAP: usize = 2;

pub(super) struct Column {
    head: &'static str,
    align: Align,
    narrow: Narrow,
}

/// What becomes of a column where the terminal is too narrow for the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Narrow {
    Whole,
    LeftOut,
    /// Cut, to so many columns at the least.
    Cut(usize),
}

#[derive(PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

impl Column {
    /// Text that is never cut.
    pub(super) const fn text(head: &'static str) -> Self {
        Self { head, align: Align::Left, narrow: Narrow::Whole }
    }

    /// Numbers, aligned to the right, never cut.
    pub(super) const fn number(head: &'static str) -> Self {
        Self { head, align: Align::Right, narrow: Narrow::Whole }
    }

    /// Text that is left out where the terminal is too narrow for the table.
    pub(super) const fn optional(head: &'static str) -> Self {
        Self { head, align: Align::Left, narrow: Narrow::LeftOut }
    }

    /// Text that is cut, to `narrowest` columns at the least, where the terminal is too narrow for the table.
    pub(super) const fn flexible(head: &'static str, narrowest: usize) -> Self {
        Self { head, align: Align::Left, narrow: Narrow::Cut(narrowest) }
    }
}

pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// The head and the rows, a line each. No line is wider than `columns`; `None`: nothing is cut.
    pub(super) fn render(&self, columns: Option<usize>) -> String {
        let widths = self.widths(columns);
        let mut text = String::new();
        let head = self.columns.each_ref().map(|column| column.head);
        self.line(head, &widths, columns, &mut text);
        for row in &self.rows {
            self.line(row.each_ref().map(String::as_str), &widths, columns, &mut text);
        }
        text
    }

    /// Of each column; `None`: it is left out.
    fn widths(&self, columns: Option<usize>) -> [Option<usize>; N] {
        let mut widths = self.columns.each_ref().map(|column| Some(width(column.head)));
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(Some(width(cell)));
            }
        }
        let Some(columns) = columns else { return widths };
        let surplus = |widths: &[Option<usize>; N]| {
            let shown = widths.iter().flatten();
            let total = shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1);
            total.saturating_sub(columns)
        };
        let narrowest: [Option<usize>; N] = std::array::from_fn(|index| match self.columns[index].narrow {
            Narrow::Cut(narrowest) => widths[index].min(Some(narrowest)),
            Narrow::Whole | Narrow::LeftOut => widths[index],
        });
        if surplus(&narrowest) > 0 {
            let optional = widths.iter_mut().zip(&self.columns).filter(|(_, column)| column.narrow == Narrow::LeftOut);
            optional.for_each(|(width, _)| *width = None);
        }
        // The widest one gives a column, again and again.
        for _ in 0..surplus(&widths) {
            let shown =
                widths.iter_mut().zip(&self.columns).filter_map(|(width, column)| Some((width.as_mut()?, column)));
            let flexible = shown.filter(|(width, column)| match column.narrow {
                Narrow::Cut(narrowest) => **width > narrowest,
                Narrow::Whole | Narrow::LeftOut => false,
            });
            let Some((width, _)) = flexible.max_by_key(|(width, _)| **width) else { break };
            *width -= 1;
        }
        widths
    }

    fn line(&self, cells: [&str; N], widths: &[Option<usize>; N], columns: Option<usize>, out: &mut String) {
        let mut line = String::new();
        for ((cell, widest), column) in cells.into_iter().zip(widths).zip(&self.columns) {
            let Some(widest) = *widest else { continue };
            let cell = fit(cell, widest);
            let padding = " ".repeat(widest.saturating_sub(width(&cell)));
            let (before, after) = if column.align == Align::Right { (&*padding, "") } else { ("", &*padding) };
            line.extend([before, &*cell, after, &" ".repeat(GAP)]);
        }
        let line = line.trim_end();
        out.push_str(&columns.map_or(line.into(), |columns| fit(line, columns)));
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new([Column::flexible("name", 6), Column::number("events"), Column::flexible("why", 8)]);
        table.row(["a".into(), "7".into(), "short".into()]);
        table.row(["日本語の名前".into(), "12345678".into(), "a reason that is far longer than that".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let expected = "\
name            events  why
a                    7  short
日本語の名前  12345678  a reason that is far longer than that
";
        assert_eq!(table().render(None), expected);
        assert_eq!(table().render(Some(200)), expected);
    }

    #[test]
    fn the_widest_flexible_column_gives_way_first() {
        let expected = "\
name            events  why
a                    7  short
日本語の名前  12345678  a reason that…
";
        assert_eq!(table().render(Some(38)), expected);
    }

    #[test]
    fn optional_columns_are_left_out_where_cutting_others_does_not_do() {
        let mut table = Table::new([Column::flexible("a", 3), Column::optional("b"), Column::text("c")]);
        table.row(["12345".into(), "67890".into(), "x".into()]);
        assert_eq!(table.render(Some(15)), "a      b      c\n12345  67890  x\n");
        assert_eq!(table.render(Some(13)), "a    b      c\n12…  67890  x\n");
        assert_eq!(table.render(Some(12)), "a      c\n12345  x\n");
        assert_eq!(table.render(Some(7)), "a     c\n123…  x\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in 0..80 {
            let text = table().render(Some(columns));
            assert!(text.lines().all(|line| width(line) <= columns), "{columns}:\n{text}");
            assert_eq!(text.lines().count(), 3);
        }
        assert!(table().render(Some(28)).contains("12345678"), "numbers are whole while they can be");
    }
}
