//! A list that only grows, so that what is in it can be borrowed without a lock.

use std::sync::OnceLock;

use crate::sync::Mutex;

struct Node<T> {
    item: T,
    next: Link<T>,
}

type Link<T> = OnceLock<Box<Node<T>>>;

/// A list that only grows.
pub(super) struct GrowingList<T> {
    first: Link<T>,
    /// Held while it grows.
    growing: Mutex<()>,
}

impl<T> Default for GrowingList<T> {
    fn default() -> Self {
        Self {
            first: Link::new(),
            growing: Mutex::default(),
        }
    }
}

impl<T> GrowingList<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.nodes().map(|node| &node.item)
    }

    fn nodes(&self) -> impl Iterator<Item = &Node<T>> {
        let boxes = std::iter::successors(self.first.get(), |node| node.next.get());
        boxes.map(|node| &**node)
    }

    /// Appends what `item` makes, given how many there are; `None`: nothing.
    pub(super) fn push(&self, item: impl FnOnce(usize) -> Option<T>) {
        let _growing = self.growing.lock();
        if let Some(item) = item(self.iter().count()) {
            let end = self.nodes().last().map_or(&self.first, |node| &node.next);
            let next = Link::new();
            // Nobody else sets it while the lock is held.
            let _ = end.set(Box::new(Node { item, next }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_borrowed_stays_while_the_list_grows() {
        let list = GrowingList::default();
        list.push(|count| Some(format!("item {count}")));
        let first = list.iter().next().unwrap();
        for _ in 0..10 {
            list.push(|count| Some(format!("item {count}")));
            list.push(|_| None);
        }
        assert_eq!(first, "item 0");
        assert_eq!(list.iter().last().unwrap(), "item 10");
    }
}
