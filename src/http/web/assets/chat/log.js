/** The log counts as read to its end while it is scrolled at most this far from it, pixels. */
const NEAR_END_PX = 40;
/** A scroll this soon after a user's input is the user's. */
const USER_MS = 1000;
/** Browsers tell screen readers of changes with a delay. */
const QUIET_MS = 1000;
const USER_INPUT = ['wheel', 'touchmove', 'keydown', 'pointerdown'];

/** Scrolls the log to new text, unless the user has scrolled back. */
export class Log {
  box;
  #jump;
  #following = true;
  #top = 0;
  #touched = Number.NEGATIVE_INFINITY;
  #frame;
  #timer;

  /** @param jump the button that scrolls to the end; shown while the user reads further up */
  constructor(box, jump) {
    this.box = box;
    this.#jump = jump;
    // The keyboard must reach what scrolls.
    box.tabIndex = 0;
    box.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    for (const type of USER_INPUT) {
      box.addEventListener(type, () => this.#touch(), { passive: true });
    }
    jump.addEventListener('click', () => this.toEnd());
    new ResizeObserver(() => this.follow()).observe(box);
  }

  append(...nodes) {
    this.box.append(...nodes);
    this.follow();
  }

  /** Adds messages that are not new: screen readers do not announce them. */
  addStored(add) {
    this.box.ariaLive = 'off';
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.box.ariaLive = 'polite';
    }, QUIET_MS);
    add();
  }

  /** Adds stored messages above; what is read stays where it is. */
  addAbove(add) {
    const below = this.box.scrollHeight - this.box.scrollTop;
    this.addStored(add);
    this.box.scrollTop = this.box.scrollHeight - below;
    this.#top = this.box.scrollTop;
  }

  /** Follows from now on. */
  toEnd() {
    // What moves the log from here on is no scroll of the user.
    this.#touched = Number.NEGATIVE_INFINITY;
    this.#set(true);
    this.follow();
  }

  /** Scrolls to the end once per frame. */
  follow() {
    if (!this.#following || this.#frame !== undefined) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = undefined;
      if (this.#following) this.box.scrollTop = this.box.scrollHeight;
    });
  }

  #touch() {
    this.#touched = performance.now();
  }

  /** The position also moves back when the log gets shorter, and more text can come before this event. */
  #onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.box;
    const isUser = performance.now() - this.#touched < USER_MS;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.#set(true);
    else if (isUser && scrollTop < this.#top) {
      this.#set(false);
      this.#touch();
    }
    this.#top = scrollTop;
  }

  #set(following) {
    this.#following = following;
    this.#jump.hidden = following;
  }
}
