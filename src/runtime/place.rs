//! Values that are made where they stay.

/// Makes a value in a box. `Box::new` makes it on the stack and copies all of it from there: of a future that has not
/// begun that is mostly room in which nothing is yet, some kilobytes for each call.
#[inline]
pub fn placed<T>(make: impl FnOnce() -> T) -> Box<T> {
    // The room comes first, so that nothing can go wrong between the making and the keeping.
    let room = Box::new_uninit();
    Box::write(room, make())
}
