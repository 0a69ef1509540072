/** Asks for each item before the one before it has been dealt with. */
export async function* oneAhead<T>(items: AsyncGenerator<T>): AsyncGenerator<T> {
  try {
    let next = items.next();
    for (;;) {
      const { value, done } = await next;
      if (done) return;
      next = items.next();
      // Whoever leaves now does not hear of its fault.
      next.catch(() => {});
      yield value;
    }
  } finally {
    await items.return(undefined);
  }
}
