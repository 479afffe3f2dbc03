"""7. Language models: texts to tokens to batches to a trained run that writes."""

from cellwright.text.assess import assess as assess
from cellwright.text.compare import compare as compare
from cellwright.text.config import Settings as Settings
from cellwright.text.config import load_preset as load_preset
from cellwright.text.launch import resume_job as resume_job
from cellwright.text.launch import start_job as start_job
from cellwright.text.run import Run as Run
from cellwright.text.write import write as write
