//! What reaches the reader of the access log, and what does not hold its writers up.

use std::io::{BufRead as _, BufReader, PipeReader, Read as _, pipe};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// An output that tells of each write, and waits with it until it may.
struct Gate {
    tell: Sender<Vec<u8>>,
    may: Receiver<()>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _nobody_listens = self.tell.send(bytes.to_vec());
        let _open_for_ever = self.may.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gate() -> (AccessLog, Receiver<Vec<u8>>, Sender<()>) {
    let ((tell, told), (open, may)) = (channel(), channel());
    (AccessLog::writing_to(Gate { tell, may }).unwrap(), told, open)
}

fn line(number: usize) -> Vec<u8> {
    format!("line {number}\n").into_bytes()
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(line).collect()
}

#[test]
fn what_comes_while_the_writer_is_busy_is_one_write() {
    let (log, told, open) = gate();
    assert!(log.write(&line(0)));
    // A line alone does not wait for others.
    assert_eq!(told.recv().unwrap(), line(0));
    assert!((1..100).all(|number| log.write(&line(number))));
    drop(open);
    drop(log);
    assert_eq!(told.iter().collect::<Vec<_>>(), [lines(1..100)]);
}

/// Those who write at once do not write into each other's lines, and each one's come in their order.
#[test]
fn lines_never_interleave_and_none_is_lost() {
    const EACH: usize = 2000;
    let (reader, writer) = pipe().unwrap();
    let log = AccessLog::writing_to(writer).unwrap();
    let read = std::thread::spawn(move || BufReader::new(reader).lines().map(Result::unwrap).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for number in 0..EACH {
                    let text = "x".repeat(number % 300);
                    assert!(log.append(|_, out| writeln!(out, "{writer} {number} {text}").unwrap()));
                }
            });
        }
    });
    drop(log);
    let (lines, mut next) = (read.join().unwrap(), [0; 4]);
    for line in &lines {
        let parts: Vec<&str> = line.split(' ').collect();
        let (writer, number): (usize, usize) = (parts[0].parse().unwrap(), parts[1].parse().unwrap());
        assert_eq!((number, parts[2].len()), (next[writer], number % 300));
        next[writer] += 1;
    }
    assert_eq!(next, [EACH; 4]);
}

/// A line is there for who waits for it, without a next one and without an end.
#[test]
fn a_line_does_not_wait_for_the_next_one() {
    let (reader, writer) = pipe().unwrap();
    let (log, mut reader) = (AccessLog::writing_to(writer).unwrap(), BufReader::new(reader));
    for number in 0..3 {
        assert!(log.write(&line(number)));
        let mut read = String::new();
        reader.read_line(&mut read).unwrap();
        assert_eq!(read.as_bytes(), line(number));
    }
}

/// What is full by lines or by bytes takes no more, and says so; what it holds is written when somebody
/// reads again.
#[test]
fn what_nobody_reads_is_lost_and_counted() {
    let large = [vec![b'x'; 8191], vec![b'\n']].concat();
    for (line, most) in [(line(7), WAITING_LINES), (large, WAITING_BYTES / 8192)] {
        let (log, told, open) = gate();
        assert!(log.write(&line));
        assert_eq!(told.recv().unwrap(), line);
        // What the writer has in hand counts.
        assert_eq!((0..2 * WAITING_LINES).filter(|_| log.write(&line)).count(), most - 1);
        drop(open);
        drop(log);
        assert_eq!(told.iter().map(|bytes| bytes.len()).sum::<usize>(), line.len() * (most - 1));
    }
}

/// A process whose output is never read ends all the same.
#[test]
fn the_end_does_not_wait_for_who_never_reads() {
    let (reader, writer) = pipe().unwrap();
    let log = AccessLog::writing_to(writer).unwrap();
    let long = [vec![b'x'; 1 << 20], vec![b'\n']].concat();
    assert!(log.write(&long), "it is more than a pipe takes");
    drop(log);
    let mut some = [0; 4096];
    let mut reader: PipeReader = reader;
    reader.read_exact(&mut some).unwrap();
    assert_eq!(some, [b'x'; 4096]);
}

/// Nobody reads: no error, no stop, no memory.
#[test]
fn a_closed_output_takes_everything() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let log = AccessLog::writing_to(writer).unwrap();
    let shared = Arc::clone(log.lines.as_ref().unwrap());
    assert!(log.write(&line(0)));
    drop(log);
    let waiting = shared.lock();
    assert_eq!((waiting.end, waiting.lines, waiting.taken), (0, 0, (0, 0)));
}

/// An output that another process has made one that does not block, and that takes little at once.
#[test]
fn an_output_that_would_block_gets_everything() {
    struct Fickle(Sender<u8>, usize);
    impl Write for Fickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 % 3 {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                1 => Err(io::ErrorKind::Interrupted.into()),
                _ => {
                    let some = bytes.len().min(5);
                    bytes[..some].iter().for_each(|byte| self.0.send(*byte).unwrap());
                    Ok(some)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            self.1 += 1;
            if self.1.is_multiple_of(2) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        }
    }
    let (tell, told) = channel();
    let log = AccessLog::writing_to(Fickle(tell, 0)).unwrap();
    assert!((0..3).all(|number| log.write(&line(number))));
    drop(log);
    assert_eq!(told.iter().collect::<Vec<u8>>(), lines(0..3));
}

/// What a panic leaves of a line is not written.
#[test]
fn a_panic_inside_a_line_leaves_nothing_behind() {
    let (mut reader, writer) = pipe().unwrap();
    let log = Arc::new(AccessLog::writing_to(writer).unwrap());
    assert!(log.write(&line(0)));
    let (other, half) = (Arc::clone(&log), b"half");
    let lost = std::thread::spawn(move || {
        other.append(|_, out| {
            out.extend_from_slice(half);
            panic!("inside a line");
        })
    });
    assert!(lost.join().is_err());
    assert!(log.write(&line(1)));
    drop(log);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, lines(0..2));
}

#[test]
fn memory_is_given_back_after_a_burst() {
    let (log, told, open) = gate();
    let shared = Arc::clone(log.lines.as_ref().unwrap());
    assert!(log.write(&line(0)));
    told.recv().unwrap();
    let large = [vec![b'x'; 8191], vec![b'\n']].concat();
    assert!((1..WAITING_BYTES / 8192).all(|_| log.write(&large)));
    assert!(shared.lock().bytes.capacity() >= WAITING_BYTES - 8192);
    drop(open);
    drop(log);
    assert_eq!(told.iter().map(|bytes| bytes.len()).sum::<usize>(), WAITING_BYTES - 8192);
    assert!(shared.lock().bytes.capacity() <= 2 * ENOUGH);
}

#[test]
fn writes_are_of_whole_lines() {
    type Row<'a> = (&'a str, usize, Option<(&'a str, &'a str)>);
    let rows: [Row<'_>; 7] = [
        ("", 4, None),
        ("ab\n", 4, Some(("ab\n", ""))),
        ("ab\ncd\n", 6, Some(("ab\ncd\n", ""))),
        ("ab\ncd\n", 5, Some(("ab\n", "cd\n"))),
        ("a\nb\nc\n", 4, Some(("a\nb\n", "c\n"))),
        ("abcdef\ng\n", 4, Some(("abcdef\n", "g\n"))),
        ("abcdef", 4, Some(("abcdef", ""))),
    ];
    for (given, most, expected) in rows {
        let expected = expected.map(|(now, later)| (now.as_bytes(), later.as_bytes()));
        assert_eq!(split(given.as_bytes(), most), expected, "{given:?} {most}");
    }
}

#[test]
fn there_are_five_levels() {
    for (text, level) in [("error", LevelFilter::ERROR), ("info", LevelFilter::INFO), ("trace", LevelFilter::TRACE)] {
        assert_eq!(LogSettings::level(text), Some(level));
    }
    for other in ["", "off", "OFF", "INFO", "Trace", "3", "warning", " info"] {
        assert_eq!(LogSettings::level(other), None, "{other:?}");
    }
}
