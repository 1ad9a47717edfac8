// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's output, line by line.

/// Whole lines out of bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Lines {
    /// Everything so far.
    pub all: String,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl Lines {
    /// Lines that these bytes complete.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend(bytes);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        self.all += &text;
        text.lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_two_pieces_is_one_line() {
        let mut lines = Lines::default();
        assert!(lines.take(b"test a ..").is_empty());
        assert_eq!(lines.take(b". ok\ntest b"), ["test a ... ok"]);
        assert_eq!(lines.take(b"\n"), ["test b"]);
        assert_eq!(lines.all, "test a ... ok\ntest b\n");
    }
}
