/** The log counts as read to its end while it is scrolled at most this far from it, pixels. */
const NEAR_END_PX = 40;

/** Scrolls the log to new text, unless the user has scrolled back. */
export class Log {
  #box;
  #jump;
  #following = true;
  #top = 0;
  #frame;

  /** @param jump the button that scrolls to the end; shown while the user reads further up */
  constructor(box, jump) {
    this.#box = box;
    this.#jump = jump;
    box.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    jump.addEventListener('click', () => this.toEnd());
    new ResizeObserver(() => this.follow()).observe(box);
  }

  append(...nodes) {
    this.#box.append(...nodes);
    this.follow();
  }

  /** Follows from now on. */
  toEnd() {
    this.#set(true);
    this.follow();
  }

  /** Scrolls to the end once per frame. */
  follow() {
    if (!this.#following || this.#frame !== undefined) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = undefined;
      if (this.#following) this.#box.scrollTop = this.#box.scrollHeight;
    });
  }

  /** New text never moves the position back, so only a user does. */
  #onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.#set(true);
    else if (scrollTop < this.#top) this.#set(false);
    this.#top = scrollTop;
  }

  #set(following) {
    this.#following = following;
    this.#jump.hidden = following;
  }
}
