// A ranking as it is being made: tie groups, best first, and the moves that change them. No page in here.

/** @param {number[][]} groups tie groups of positions, best first */
export function orderOf(groups) {
  let given = new Map();

  const placeOf = (position) => groups.findIndex((group) => group.includes(position));
  const swap = (i, j) => ([groups[i], groups[j]] = [groups[j], groups[i]]);
  const start = () => groups.map((group) => [...group]);
  const change = (move) => {
    groups = start();
    given = new Map();
    move();
  };

  return {
    groups: () => start(),
    flat: () => groups.flat(),
    place: (position) => placeOf(position) + 1,
    isTied: (position) => groups[placeOf(position)].length > 1,
    isTiedWithAbove: (position) => groups[placeOf(position)].indexOf(position) > 0,
    isGiven: (position) => given.has(position),

    /** One place better (-1) or worse (1): out of a tie, or past the neighbour and all that is tied with it. */
    step(position, way) {
      change(() => {
        const place = placeOf(position);
        if (groups[place].length > 1) {
          groups[place].splice(groups[place].indexOf(position), 1);
          groups.splice(way < 0 ? place : place + 1, 0, [position]);
        } else if (groups[place + way]) {
          swap(place, place + way);
        }
      });
    },

    /** Ties it, and what is tied with it, with the one above; again: parts them there. False at the top. */
    tie(position) {
      const place = placeOf(position);
      const within = groups[place].indexOf(position);
      if (place === 0 && within === 0) return false;
      change(() => {
        if (within > 0) groups.splice(place + 1, 0, groups[place].splice(within));
        else groups.splice(place - 1, 2, [...groups[place - 1], ...groups[place]]);
      });
      return true;
    },

    /** Dropped at an index of the flat order: between two that are tied it joins them, else it stands alone. */
    drop(position, index) {
      change(() => {
        for (const group of groups) if (group.includes(position)) group.splice(group.indexOf(position), 1);
        groups = groups.filter((group) => group.length);
        const others = groups.flat();
        const below = groups.findIndex((group) => group.includes(others[index]));
        const above = groups.findIndex((group) => group.includes(others[index - 1]));
        if (below >= 0 && below === above) groups[below].splice(groups[below].indexOf(others[index]), 0, position);
        else groups.splice(below >= 0 ? below : groups.length, 0, [position]);
      });
    },

    /**
     * Gives it a place by its number; the same number twice is a tie. Those without a number fill the places that are
     * left, in the order in which they stand. Numbers count until something is moved in another way.
     */
    give(position, number) {
      given.set(position, number);
      const left = groups.map((group) => group.filter((one) => !given.has(one))).filter((group) => group.length);
      const byNumber = new Map();
      for (const [one, place] of given) byNumber.set(place, [...(byNumber.get(place) ?? []), one]);
      for (let place = 1; left.length; place++) if (!byNumber.has(place)) byNumber.set(place, left.shift());
      groups = [...byNumber].sort(([a], [b]) => a - b).map(([, group]) => group);
    },
  };
}
