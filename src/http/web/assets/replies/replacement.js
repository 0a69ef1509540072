/** What the running reply replaces in the log, and the boxes of the results of tools that were sent for it. */
export class Replacement {
  #replaced = [];
  #results = [];

  get isEmpty() {
    return this.#replaced.length === 0;
  }

  /** Forgets the last replacement; results that got no reply are removed. */
  begin(replaced = [], results = []) {
    for (const node of this.#results) node.remove();
    this.#replaced = replaced;
    this.#results = results;
  }

  /** While the reply is on its way, the results are shown in place of the replaced nodes. */
  show(isOnItsWay) {
    for (const node of this.#replaced) node.hidden = isOnItsWay;
    for (const node of this.#results) node.hidden = !isOnItsWay;
  }

  /** The reply has its first text: the replacement is final. */
  commit() {
    for (const node of this.#replaced) node.remove();
    this.#replaced = [];
    this.#results = [];
  }
}
