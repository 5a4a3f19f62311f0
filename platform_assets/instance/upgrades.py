"""What brings a home from each version of its stored state to the next.

Belongs here: the steps, in order; the newest version is the number of steps and one. Not here: opening a home
(`resources/home.py`), and what a step changes, which is beside what it belongs to.

A change of what is stored adds a step at the end, and a home of the version before to tests/homes.
"""

from resources.home import Step
from resources.ledger import name_files_below_home
from resources.old_evaluations import tell_by_partition

STEPS: tuple[Step, ...] = (
    Step("receipts name files by their place in the home, and say what lake files hold", name_files_below_home),
    Step("evaluations of dbt tests are about single partitions", tell_by_partition),
)
